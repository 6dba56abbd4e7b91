//! SHOW INSTANCES.

use crate::admin::sources::{InstanceRow, Sources};
use crate::admin::table::{Column, Value, flag, integer, text};

pub(super) const INSTANCES: &[Column] = &[
    text("instance"),
    integer("number"),
    // leader: decides about the primary; follower; alone.
    text("standing"),
    // The one that was asked.
    flag("this"),
    text("address"),
    // The epoch of the last change of primary that it has acknowledged.
    integer("acknowledged"),
    text("version"),
];

pub(super) fn instances(sources: &dyn Sources) -> Vec<Vec<Value>> {
    let row = |row: InstanceRow| {
        let InstanceRow { number, name, address, version, acknowledged, standing, is_this } = row;
        vec![
            name.into(),
            number.map(u32::from).into(),
            standing.label().into(),
            is_this.into(),
            Some(address).filter(|address| !address.is_empty()).into(),
            acknowledged.into(),
            version.into(),
        ]
    };
    sources.instances().into_iter().map(row).collect()
}
