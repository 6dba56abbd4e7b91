//! Probe results to node states.
