"""The main job, a stage a module, in the order they run.

`job` what every stage needs · `prepare` fold, check, split the images · `timing` the latency table of
this machine · `frontier` plans, built and judged on the selection images · `gate` accuracy on images that
took part in nothing, paired latency · `records` each layer's story · `write` the bundle · `run` the whole.
"""
