"""Who may enter, by either door: keys, the tenants behind them, and the files that hold them."""
