//! The corpus of labelled texts.
