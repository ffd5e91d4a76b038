"""A worker: one process, one generation of one model, one session, its queue and its batches."""
