"""The gRPC server: validates, admits, renders, tokenises, and turns engine outputs into responses."""
