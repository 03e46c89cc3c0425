//! The payload map of a generic source.

use scanhook_core::kinds::generic::{Condition, Mapping, Place};

use super::{ConfigError, error};
use crate::wire::{Entries, OneOrMany, WirePayload};

/// Checks a payload map.
pub(super) fn mapping(wire: WirePayload, path: &str) -> Result<Mapping, ConfigError> {
    let repository = match wire.repository {
        OneOrMany::One(pointer) => vec![pointer],
        OneOrMany::Many(pointers) => pointers,
    };
    if repository.is_empty() {
        return Err(error(
            &format!("{path}.repository"),
            "at least one pointer is needed",
        ));
    }
    if wire.tag.is_none() && wire.digest.is_none() {
        return Err(error(path, "either tag or digest must be named"));
    }
    let optional = [
        ("tag", &wire.tag),
        ("digest", &wire.digest),
        ("host", &wire.host),
        ("media_type", &wire.media_type),
        ("id", &wire.id),
        ("type", &wire.event_type),
        ("actor", &wire.actor),
        ("time", &wire.time),
    ];
    check_pointer("events", &wire.events, path)?;
    for pointer in &repository {
        check_pointer("repository", pointer, path)?;
    }
    for (key, pointer) in optional {
        if let Some(pointer) = pointer {
            check_pointer(key, pointer, path)?;
        }
    }
    Ok(Mapping {
        events: wire.events,
        matches: conditions(wire.matches, &format!("{path}.match"))?,
        ping: conditions(wire.ping, &format!("{path}.ping"))?,
        repository,
        tag: wire.tag,
        digest: wire.digest,
        host: wire.host,
        media_type: wire.media_type,
        id: wire.id,
        event_type: wire.event_type,
        actor: wire.actor,
        time: wire.time,
    })
}

fn conditions(
    wire: Entries<Option<Vec<String>>>,
    path: &str,
) -> Result<Vec<Condition>, ConfigError> {
    let conditions = wire.0.into_iter().map(|(place, allowed)| {
        let place = if let Some(name) = place.strip_prefix("header:") {
            Place::Header(
                name.parse()
                    .map_err(|_| error(path, "not the name of a header"))?,
            )
        } else {
            check_pointer("(key)", &place, path)?;
            Place::Pointer(place)
        };
        Ok(Condition { place, allowed })
    });
    conditions.collect()
}

/// A JSON Pointer (RFC 6901) is empty or starts with a slash.
fn check_pointer(key: &str, pointer: &str, path: &str) -> Result<(), ConfigError> {
    if pointer.is_empty() && key == "events" || pointer.starts_with('/') {
        Ok(())
    } else {
        Err(error(
            &format!("{path}.{key}"),
            "expected a JSON Pointer such as /data/tag",
        ))
    }
}
