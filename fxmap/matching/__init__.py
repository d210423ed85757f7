"""Match two models: which operation of one is which of the other, and how every key follows from that."""
