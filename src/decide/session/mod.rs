//! What a session holds: transaction, settings, prepared statements, pins, replies due.
