"""A rendered open-vocabulary data set, with a small teacher, backbone and multimodal LLM that ship with cckt.

pictographs.py        the 65 concepts and their drawings, the other words, letters
paint.py              colours, textures, backgrounds and masks
scene.py              an image from a seed and a number
dataset.py            images, COCO annotations, split and index: `cckt data shapeworld`
captions.py           training images of the teacher, with captions and crops
train_backbone.py     training of the student's backbone
tiny_clip.py          architecture and tokenizer of the CLIP teacher
train_teacher.py      training of the CLIP teacher
evaluate_teacher.py   figures of the teacher
tiny_mllm.py          architecture and tokenizer of the multimodal LLM
train_mllm.py         training of the multimodal LLM
train_namer.py        training of its layer that names crops
teacher/, backbone/, mllm/   the shipped weights
"""
