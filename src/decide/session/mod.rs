//! What a session holds: settings, prepared statements, replies due, and what it may have left on a server connection.

mod among;
mod dues;
mod inventory;
mod needs;
mod prepared;
mod settings;

pub use among::{Among, Protocol, Refused, Turn};
pub use dues::{Answer, Completed, Due, Dues, Fate, Kind, OutOfStep};
pub use inventory::{Inventory, InventoryError, Pin, inventory_sql, listen_sql};
pub use needs::{Defaults, Departure, Needs};
pub use prepared::{
    Forgotten, Origin, SERVER_NAME_PREFIX, ServerName, ServerStatements, Statement, StatementId, server_name,
};
pub use settings::{ParameterMap, Settings, ascii_expression, milliseconds, quote_identifier, quote_literal};
