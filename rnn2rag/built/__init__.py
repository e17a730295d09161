"""What the chapters built, for later chapters to import: generated from their exported cells by `rnn2rag notebooks`."""
