"""Export a trained detector: a graph with a fixed vocabulary, or a folder with a model card.

differences.py  how far a graph is from torch
graph.py        ONNX and torch.export graphs, compared with torch before they are kept
graph_card.py   the JSON file next to a graph
graph_model.py  a detector as a module that can be traced
onnx_graph.py   ONNX graphs: named axes, operators, onnxruntime
precision.py    ONNX graphs in fp16 and int8
time_limit.py   a limit for work that cannot be watched
model_card.py   a folder with weights, config, facts and a model card, for model hubs
"""
