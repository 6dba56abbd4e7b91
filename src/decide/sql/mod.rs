//! What a statement asks for: SQL text to [`Intent`], with the reason.
//!
//! The way of a text: [`lex`] into tokens, split into statements, each judged by its leading keywords
//! ([`statement`]). Queries are judged by what their tokens can call, lock and write ([`scan`]); where a token may
//! mean two things, the parser is asked ([`parse`]). What neither understands goes to the primary.

mod arguments;
mod body;
mod catalogue;
mod classify;
mod display;
mod hints;
mod keywords;
mod lex;
mod names;
mod newcomers;
mod oversized;
mod parse;
mod placeholders;
mod references;
mod rows;
mod scan;
mod settings;
mod shape;
mod statement;
mod targets;
mod tokens;
mod typenames;
mod types;

pub use catalogue::{
    BadRow, Catalogue, CatalogueBuilder, CatalogueQuery, CatalogueSize, FunctionLists, Hazard, Listed, SearchPath,
    Standing,
};
pub use classify::{Asker, Facts, classify};
pub use shape::{Shape, outline, shape};
pub use types::*;

#[cfg(test)]
mod tests;
