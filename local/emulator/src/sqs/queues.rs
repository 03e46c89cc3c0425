//! Creates, finds, changes, purges and deletes queues.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{OptionalExtension as _, params};

use super::attributes::{Attributes, no_fifo};
use super::error::{Code, Error};
use super::queue::{Queue, from_row};
use super::queue_arn;
use super::store::{Db, Store};

/// SQS blocks the name of a deleted queue, and another purge of a purged queue, for this long.
const QUARANTINE_MS: i64 = 60_000;

impl Store {
    /// Makes sure that the queue `name` exists with these attributes, and returns its ARN.
    ///
    /// Other attributes keep their values. Unlike on SQS, the name of a queue that was just deleted can be used at
    /// once.
    pub async fn ensure_queue(
        &self,
        name: &str,
        attributes: &[(&str, &str)],
    ) -> Result<String, Error> {
        let name = name.to_owned();
        let attributes = attributes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.run(move |db| {
            check_name(&name)?;
            let wanted = Attributes::parse(&attributes, db.region)?;
            match find(db, &name) {
                Err(err) if err.is(Code::QueueDoesNotExist) => {
                    insert(db, &name, wanted, &BTreeMap::new())?;
                }
                Err(err) => return Err(err),
                Ok(queue) if queue.attributes.conflict(&wanted).is_some() => {
                    change(db, &queue, wanted)?;
                }
                Ok(_) => {}
            }
            Ok(queue_arn(db.region, &name))
        })
        .await
    }
}

/// Finds the queue `name`. A caller that changes it afterwards must call [`forget`].
pub(crate) fn find(db: &Db<'_>, name: &str) -> Result<Arc<Queue>, Error> {
    if let Some(queue) = db.session.queues.borrow().get(name) {
        return Ok(Arc::clone(queue));
    }
    let queue = db
        .sql
        .prepare_cached("SELECT id, name, attributes, created_at, modified_at, purged_at FROM queue WHERE name = ?1")?
        .query_row([name], |row| Ok(from_row(row)))
        .optional()?
        .ok_or_else(Error::no_such_queue)??;
    let queue = Arc::new(queue);
    let mut found = db.session.queues.borrow_mut();
    found.insert(name.to_owned(), Arc::clone(&queue));
    Ok(queue)
}

/// Removes the queue `name` from the cache, so that the next [`find`] reads it again.
fn forget(db: &Db<'_>, name: &str) {
    db.session.queues.borrow_mut().remove(name);
}

/// Finds every queue whose name starts with `prefix` and sorts after `after`, sorted by name.
pub(crate) fn list(db: &Db<'_>, prefix: &str, after: &str) -> Result<Vec<Queue>, Error> {
    let mut statement = db.sql.prepare_cached(
        "SELECT id, name, attributes, created_at, modified_at, purged_at FROM queue
         WHERE substr(name, 1, length(?1)) = ?1 AND name > ?2 ORDER BY name",
    )?;
    statement
        .query_and_then([prefix, after], from_row)?
        .collect()
}

/// Creates a queue. An existing queue must have the same attributes.
pub(crate) fn create(
    db: &mut Db<'_>,
    name: &str,
    attributes: &BTreeMap<String, String>,
    tags: &BTreeMap<String, String>,
) -> Result<(), Error> {
    check_name(name)?;
    let wanted = Attributes::parse(attributes, db.region)?;
    match find(db, name) {
        Ok(queue) => match queue.attributes.conflict(&wanted) {
            None => Ok(()),
            Some(attribute) => Err(Error::new(
                Code::QueueNameExists,
                format!(
                    "A queue already exists with the same name and a different value for attribute {attribute}"
                ),
            )),
        },
        Err(err) if err.is(Code::QueueDoesNotExist) => {
            let deleted_at: Option<i64> = db
                .sql
                .prepare_cached("SELECT deleted_at FROM deleted_queue WHERE name = ?1")?
                .query_row([name], |row| row.get(0))
                .optional()?;
            if deleted_at.is_some_and(|it| db.now < it + QUARANTINE_MS) {
                return Err(Error::new(
                    Code::QueueDeletedRecently,
                    "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
                ));
            }
            insert(db, name, wanted, tags)
        }
        Err(err) => Err(err),
    }
}

pub(crate) fn set_attributes(
    db: &mut Db<'_>,
    name: &str,
    attributes: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let queue = find(db, name)?;
    let changes = Attributes::parse(attributes, db.region)?;
    change(db, &queue, changes)
}

/// Deletes a queue with all its messages.
pub(crate) fn delete(db: &mut Db<'_>, name: &str) -> Result<(), Error> {
    let queue = find(db, name)?;
    db.sql
        .prepare_cached("DELETE FROM queue WHERE id = ?1")?
        .execute([queue.id])?;
    db.sql
        .prepare_cached("INSERT OR REPLACE INTO deleted_queue (name, deleted_at) VALUES (?1, ?2)")?
        .execute(params![name, db.now])?;
    forget(db, name);
    db.wake(queue.id);
    Ok(())
}

pub(crate) fn purge(db: &mut Db<'_>, name: &str) -> Result<(), Error> {
    let queue = find(db, name)?;
    if queue
        .purged_at
        .is_some_and(|it| db.now < it + QUARANTINE_MS)
    {
        let message =
            format!("Only one PurgeQueue operation on {name} is allowed every 60 seconds.");
        return Err(Error::new(Code::PurgeQueueInProgress, message));
    }
    db.sql
        .prepare_cached("DELETE FROM message WHERE queue = ?1")?
        .execute([queue.id])?;
    db.sql
        .prepare_cached("UPDATE queue SET purged_at = ?2 WHERE id = ?1")?
        .execute([queue.id, db.now])?;
    forget(db, name);
    Ok(())
}

/// Returns the names of the queues whose dead letters go to `target`.
pub(crate) fn sources(db: &Db<'_>, target: &str) -> Result<Vec<String>, Error> {
    let uses = |queue: &Queue| {
        queue
            .attributes
            .redrive_policy()
            .is_some_and(|policy| policy.target == target)
    };
    Ok(list(db, "", "")?
        .into_iter()
        .filter(uses)
        .map(|queue| queue.name)
        .collect())
}

pub(crate) fn tags(db: &Db<'_>, name: &str) -> Result<BTreeMap<String, String>, Error> {
    let tags: Option<String> = db
        .sql
        .prepare_cached("SELECT tags FROM queue WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    Ok(serde_json::from_str(
        &tags.ok_or_else(Error::no_such_queue)?,
    )?)
}

pub(crate) fn set_tags(
    db: &Db<'_>,
    name: &str,
    tags: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let tags = serde_json::to_string(tags)?;
    db.sql
        .prepare_cached("UPDATE queue SET tags = ?2 WHERE name = ?1")?
        .execute([name, &tags])?;
    Ok(())
}

fn insert(
    db: &Db<'_>,
    name: &str,
    wanted: Attributes,
    tags: &BTreeMap<String, String>,
) -> Result<(), Error> {
    let mut attributes = Attributes::default();
    attributes.update(wanted);
    check_dead_letter_queue(db, name, &attributes)?;
    db.sql
        .prepare_cached("INSERT INTO queue (name, attributes, tags, created_at, modified_at) VALUES (?1, ?2, ?3, ?4, ?4)")?
        .execute(params![name, serde_json::to_string(&attributes)?, serde_json::to_string(tags)?, db.now])?;
    Ok(())
}

fn change(db: &Db<'_>, queue: &Queue, changes: Attributes) -> Result<(), Error> {
    let mut attributes = queue.attributes.clone();
    attributes.update(changes);
    check_dead_letter_queue(db, &queue.name, &attributes)?;
    forget(db, &queue.name);
    db.sql
        .prepare_cached("UPDATE queue SET attributes = ?2, modified_at = ?3 WHERE id = ?1")?
        .execute(params![
            queue.id,
            serde_json::to_string(&attributes)?,
            db.now
        ])?;
    Ok(())
}

fn check_dead_letter_queue(db: &Db<'_>, name: &str, attributes: &Attributes) -> Result<(), Error> {
    let Some(policy) = attributes.redrive_policy() else {
        return Ok(());
    };
    let refused = |reason: &str| {
        Error::invalid_value(
            queue_arn(db.region, &policy.target),
            "RedrivePolicy",
            reason,
        )
    };
    match find(db, &policy.target) {
        Ok(target) if target.attributes.allows_redrive_from(name, db.region) => Ok(()),
        Ok(_) => Err(refused(
            "The dead letter target's redrive allow policy does not permit this source queue.",
        )),
        Err(err) if err.is(Code::QueueDoesNotExist) => {
            Err(refused("Dead letter target does not exist."))
        }
        Err(err) => Err(err),
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if name.strip_suffix(".fifo").is_some() {
        return Err(no_fifo());
    }
    let allowed = |it: char| it.is_ascii_alphanumeric() || it == '-' || it == '_';
    if name.is_empty() || name.len() > 80 || !name.chars().all(allowed) {
        let message =
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length";
        return Err(Error::new(Code::InvalidParameterValue, message));
    }
    Ok(())
}
