use rusqlite::Row;

use super::attributes::Attributes;
use super::error::Error;

#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) attributes: Attributes,
    pub(crate) created_at: i64,
    pub(crate) modified_at: i64,
    pub(crate) purged_at: Option<i64>,
}

pub(crate) fn from_row(row: &Row<'_>) -> Result<Queue, Error> {
    Ok(Queue {
        id: row.get(0)?,
        name: row.get(1)?,
        attributes: serde_json::from_str(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?,
        created_at: row.get(3)?,
        modified_at: row.get(4)?,
        purged_at: row.get(5)?,
    })
}
