"""Export a trained detector: a graph with a fixed vocabulary, or a folder with a model card.

graph.py        ONNX and torch.export graphs, compared with torch before they are kept
model_card.py   a folder with weights, config, facts and a model card, for model hubs
"""
