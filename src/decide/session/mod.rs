//! What a session holds: settings, prepared statements, replies due, and what it may have left on a server connection.

mod dues;
mod inventory;
mod prepared;
mod settings;

pub use dues::{Answer, Completed, Due, Dues, Fate, Kind, OutOfStep};
pub use inventory::{Inventory, InventoryError, Pin, inventory_sql};
pub use prepared::{Origin, Prepared, ServerStatements, Statement, StatementId, server_name};
pub use settings::{ParameterMap, Settings, quote_literal};
