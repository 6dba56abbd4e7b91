//! PostgreSQL protocol 3.0 and 3.2: frames, messages, SQLSTATE. Borrowed views, no policy.
