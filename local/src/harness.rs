//! For end-to-end tests: the running stack, its apps, and what its stand-ins received.
