"""Run one job on several processes (ranks): process group, collectives, and detection of dead ranks.

world.py         launcher variables, device choice, process group and collectives
rank_death.py    connections by which every rank learns within seconds that another one died
"""
