"""What both processes need to be watched: traces, and how late their event loops are."""
