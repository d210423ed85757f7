"""All that fxmap knows of torch.ao.quantization and torchao, whose modules are imported only where a model holds them.

`twin.py` takes the quantization out of a model; `graph.py` does that for graphs, and `exported.py` for what torch.export
adds. `calibrate.py` fills eager models, `fx.py` those of FX mode, and `pt2e.py` those of PT2E.
"""
