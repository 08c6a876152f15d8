"""One file per dialect: requests as its clients send them, and answers and errors as they read them."""
