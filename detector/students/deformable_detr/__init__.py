"""Deformable DETR with language queries (docs/method/cckt_det.md, section 4).

model.py              the student: encode, decode, heads
transformer.py        encoder, decoder, box refinement
attention.py          multi-scale deformable attention
sampling.py           bilinear sampling of a pyramid: reference, choice of implementation
sampling_cpu.py       the same for CPUs, as bags of embeddings
sampling_triton.py    the same for GPUs, as a Triton kernel
dropout.py            dropout with cheap masks on CPUs
sampling_gather.py    the same for exported graphs, without GridSample
shapes.py             type of a pyramid's shape
positions.py          sine positions, centres of cells, inverse sigmoid
guidance.py           language queries: dealing of queries to concepts
query_init.py         first boxes of the queries, from encoder cells
denoise.py            denoising queries
query_groups.py       queries of a training step in groups, and what each may see
outputs.py            dataclasses that these files exchange
criterion.py          matching and detection losses
"""
