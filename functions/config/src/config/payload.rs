//! The payload map of a generic source.

use indexmap::IndexMap;
use scanhook_core::kinds::generic::{Condition, Mapping, Place};

use super::ConfigError;
use super::error::expected;
use crate::wire::{OneOrMany, WirePayload};

/// Checks a payload map.
pub(super) fn mapping(wire: WirePayload, path: &str) -> Result<Mapping, ConfigError> {
    let repository = match wire.repository {
        OneOrMany::One(pointer) => vec![pointer],
        OneOrMany::Many(pointers) => pointers,
    };
    if repository.is_empty() {
        let what = "a JSON Pointer such as /data/repository, or a list of them";
        return Err(expected(&format!("{path}.repository"), what));
    }
    if wire.tag.is_none() && wire.digest.is_none() {
        return Err(expected(path, "a map that has tag or digest"));
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
    wire: IndexMap<String, Option<Vec<String>>>,
    path: &str,
) -> Result<Vec<Condition>, ConfigError> {
    let conditions = wire.into_iter().map(|(place, allowed)| {
        let place = if let Some(name) = place.strip_prefix("header:") {
            let header = name.parse();
            Place::Header(header.map_err(|_| expected(path, "the name of a header after header:"))?)
        } else {
            if !is_pointer(&place) {
                let what = "keys that are JSON Pointers such as /type, or header:NAME";
                return Err(expected(path, what));
            }
            Place::Pointer(place)
        };
        Ok(Condition { place, allowed })
    });
    conditions.collect()
}

/// A JSON Pointer (RFC 6901) is empty or starts with a slash.
fn check_pointer(key: &str, pointer: &str, path: &str) -> Result<(), ConfigError> {
    if pointer.is_empty() && key == "events" || is_pointer(pointer) {
        Ok(())
    } else {
        let what = "a JSON Pointer such as /data/tag";
        Err(expected(&format!("{path}.{key}"), what))
    }
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/')
}
