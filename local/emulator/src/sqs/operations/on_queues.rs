//! Operations on queues.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::attributes::check_names;
use super::super::error::Error;
use super::super::message::null_as_default;
use super::super::queue::Queue;
use super::super::queues;
use super::super::store::Db;
use super::super::{inspect, queue_arn};
use super::{Call, name_in_url};

const LARGEST_PAGE: i64 = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireCreate {
    queue_name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    attributes: BTreeMap<String, String>,
    #[serde(default, alias = "tags", deserialize_with = "null_as_default")]
    tags: BTreeMap<String, String>,
}

pub(super) async fn create(call: Call) -> Result<Value, Error> {
    let wire: WireCreate = call.parse()?;
    let name = wire
        .queue_name
        .ok_or_else(|| Error::missing_parameter("QueueName"))?;
    let url = call.url(&name);
    call.store
        .run(move |db| queues::create(db, &name, &wire.attributes, &wire.tags))
        .await?;
    Ok(json!({"QueueUrl": url}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireQueue {
    queue_url: Option<String>,
}

pub(super) async fn delete(call: Call) -> Result<Value, Error> {
    let name = name_in_url(call.parse::<WireQueue>()?.queue_url)?;
    call.store.run(move |db| queues::delete(db, &name)).await?;
    Ok(json!({}))
}

pub(super) async fn purge(call: Call) -> Result<Value, Error> {
    let name = name_in_url(call.parse::<WireQueue>()?.queue_url)?;
    call.store.run(move |db| queues::purge(db, &name)).await?;
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireName {
    queue_name: Option<String>,
}

pub(super) async fn get_url(call: Call) -> Result<Value, Error> {
    let name = call
        .parse::<WireName>()?
        .queue_name
        .ok_or_else(|| Error::missing_parameter("QueueName"))?;
    let url = call.url(&name);
    call.store
        .run(move |db| queues::find(db, &name).map(drop))
        .await?;
    Ok(json!({"QueueUrl": url}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireList {
    queue_name_prefix: Option<String>,
    queue_url: Option<String>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

pub(super) async fn list(call: Call) -> Result<Value, Error> {
    let wire: WireList = call.parse()?;
    let prefix = wire.queue_name_prefix.unwrap_or_default();
    let after = wire.next_token.unwrap_or_default();
    let queues = call
        .store
        .run(move |db| queues::list(db, &prefix, &after))
        .await?;
    let names: Vec<_> = queues.into_iter().map(|queue| queue.name).collect();
    if names.is_empty() {
        return Ok(json!({}));
    }
    page(&call, "QueueUrls", names, wire.max_results)
}

pub(super) async fn list_dead_letter_sources(call: Call) -> Result<Value, Error> {
    let wire: WireList = call.parse()?;
    let name = name_in_url(wire.queue_url)?;
    let after = wire.next_token.unwrap_or_default();
    let sources = call.store.run(move |db| {
        let target = queues::find(db, &name)?;
        Ok(queues::sources(db, &target.name)?
            .into_iter()
            .filter(|it| *it > after)
            .collect())
    });
    let sources = sources.await?;
    page(&call, "queueUrls", sources, wire.max_results)
}

/// Makes one page of queue URLs. The token of the next page is the last name of this one.
fn page(
    call: &Call,
    member: &str,
    mut names: Vec<String>,
    max_results: Option<i64>,
) -> Result<Value, Error> {
    let size = match max_results {
        None => LARGEST_PAGE,
        Some(size) if (1..=LARGEST_PAGE).contains(&size) => size,
        Some(size) => {
            let reason = "MaxResults must be an integer between 1 and 1000.";
            return Err(Error::invalid_value(size, "MaxResults", reason));
        }
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let has_more = names.len() > size;
    names.truncate(size);
    let urls: Vec<_> = names.iter().map(|name| call.url(name)).collect();
    let mut answer = json!({ member: urls });
    // Without MaxResults, SQS returns one page and no token.
    if let (true, Some(_), Some(last), Some(members)) =
        (has_more, max_results, names.last(), answer.as_object_mut())
    {
        members.insert("NextToken".to_owned(), last.as_str().into());
    }
    Ok(answer)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireGetAttributes {
    queue_url: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    attribute_names: Vec<String>,
}

pub(super) async fn get_attributes(call: Call) -> Result<Value, Error> {
    let wire: WireGetAttributes = call.parse()?;
    let name = name_in_url(wire.queue_url)?;
    check_names(&wire.attribute_names)?;
    let names = wire.attribute_names;
    let attributes = call.store.run(move |db| {
        let queue = queues::find(db, &name)?;
        let wanted = |name: &str| names.iter().any(|it| it == "All" || it == name);
        let mut attributes = queue.attributes.all();
        attributes.extend(computed(db, &queue, wanted)?);
        attributes.retain(|name, _| wanted(name));
        Ok(attributes)
    });
    let attributes = attributes.await?;
    Ok(if attributes.is_empty() {
        json!({})
    } else {
        json!({"Attributes": attributes})
    })
}

fn computed(
    db: &mut Db<'_>,
    queue: &Queue,
    wanted: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, String>, Error> {
    const COUNTS: [&str; 3] = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ];
    let seconds = |it| (db.shift.shown(it) / 1000).to_string();
    let mut computed = vec![
        ("CreatedTimestamp", seconds(queue.created_at)),
        ("LastModifiedTimestamp", seconds(queue.modified_at)),
        ("QueueArn", queue_arn(db.region, &queue.name)),
    ];
    // Counting reads the whole queue, so it is done only on request.
    if COUNTS.into_iter().any(wanted) {
        let depth = inspect::depth(db, queue)?;
        let counts = [depth.visible, depth.in_flight, depth.delayed].map(|it| it.to_string());
        computed.extend(COUNTS.into_iter().zip(counts));
    }
    Ok(computed
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireSetAttributes {
    queue_url: Option<String>,
    attributes: Option<BTreeMap<String, String>>,
}

pub(super) async fn set_attributes(call: Call) -> Result<Value, Error> {
    let wire: WireSetAttributes = call.parse()?;
    let name = name_in_url(wire.queue_url)?;
    let attributes = wire
        .attributes
        .ok_or_else(|| Error::missing_parameter("Attributes"))?;
    call.store
        .run(move |db| queues::set_attributes(db, &name, &attributes))
        .await?;
    Ok(json!({}))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WireTag {
    queue_url: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    tags: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    tag_keys: Vec<String>,
}

pub(super) async fn tag(call: Call) -> Result<Value, Error> {
    let wire: WireTag = call.parse()?;
    change_tags(call, wire.queue_url, |tags| tags.extend(wire.tags)).await
}

pub(super) async fn untag(call: Call) -> Result<Value, Error> {
    let wire: WireTag = call.parse()?;
    change_tags(call, wire.queue_url, move |tags| {
        tags.retain(|key, _| !wire.tag_keys.contains(key));
    })
    .await
}

async fn change_tags(
    call: Call,
    queue_url: Option<String>,
    change: impl FnOnce(&mut BTreeMap<String, String>) + Send + 'static,
) -> Result<Value, Error> {
    let name = name_in_url(queue_url)?;
    let changed = call.store.run(move |db| {
        let mut tags = queues::tags(db, &name)?;
        change(&mut tags);
        queues::set_tags(db, &name, &tags)
    });
    changed.await?;
    Ok(json!({}))
}

pub(super) async fn list_tags(call: Call) -> Result<Value, Error> {
    let name = name_in_url(call.parse::<WireQueue>()?.queue_url)?;
    let tags = call.store.run(move |db| queues::tags(db, &name)).await?;
    Ok(if tags.is_empty() {
        json!({})
    } else {
        json!({"Tags": tags})
    })
}
