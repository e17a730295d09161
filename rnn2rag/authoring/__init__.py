"""What authors use: from a text source to an edition, a book, a released problem set and its proof."""
