//! SHOW ROUTES, SHOW CATALOGUES.

use crate::admin::sources::{ShapeRow, Sources};
use crate::admin::table::{Column, Value, integer, number, text};
use crate::decide::sql::Reason;

/// `route`: where the statements go; in shadow mode, where they would go.
pub(super) const ROUTES: &[Column] = &[
    text("database"),
    text("route"),
    text("reason"),
    text("object"),
    integer("statements"),
    number("mean_ms"),
    text("statement"),
];

/// Rows at most: those that came most often.
const MOST: usize = 500;

pub(super) fn routes(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let mut shapes = sources.shapes();
    shapes.sort_by(|a, b| b.statements.cmp(&a.statements).then_with(|| a.outline.cmp(&b.outline)));
    shapes.truncate(MOST);
    let row = |shape: ShapeRow| {
        let offloaded = shape.offloaded || shape.reason == Reason::Shadow;
        vec![
            (*shape.database).into(),
            if offloaded { "replica" } else { "primary" }.into(),
            shape.reason.label().into(),
            shape.object.as_deref().map(Value::from).into(),
            shape.statements.into(),
            mean_ms(&shape).into(),
            shape.outline.as_str().into(),
        ]
    };
    shapes.into_iter().map(row).collect()
}

#[expect(clippy::cast_precision_loss, reason = "as many digits as are shown are right")]
fn mean_ms(shape: &ShapeRow) -> f64 {
    (shape.time.as_secs_f64() * 1e3 / shape.statements.max(1) as f64 * 1e3).round() / 1e3
}

pub(super) const CATALOGUES: &[Column] = &[
    text("database"),
    // Where it is failing, the rest is what was loaded last; where that is nothing, no statement counts as a read.
    text("state"),
    integer("functions"),
    // Those that only the primary answers rightly.
    integer("relations"),
    integer("bytes"),
    text("error"),
];

pub(super) fn catalogues(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let rows = sources.catalogues().into_iter().map(|row| {
        let size = row.size.unwrap_or_default();
        vec![
            (*row.database).into(),
            row.state().into(),
            size.functions.into(),
            size.relations.into(),
            size.bytes.into(),
            row.trouble.as_deref().map(str::to_owned).into(),
        ]
    });
    rows.collect()
}
