//! Deliveries in the registries' documented formats.

use serde_json::{Value, json};

/// A unique digest.
fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

/// A user or an organisation with all its URLs, as GitHub sends it at every mention.
fn account(login: &str, kind: &str) -> Value {
    let api = format!("https://api.github.com/users/{login}");
    json!({
        "login": login, "id": 1_234_567, "node_id": "MDEyOk9yZ2FuaXphdGlvbjEyMzQ1Njc=",
        "avatar_url": "https://avatars.githubusercontent.com/u/1234567?v=4", "gravatar_id": "", "url": api,
        "html_url": format!("https://github.com/{login}"), "followers_url": format!("{api}/followers"),
        "following_url": format!("{api}/following{{/other_user}}"), "gists_url": format!("{api}/gists{{/gist_id}}"),
        "starred_url": format!("{api}/starred{{/owner}}{{/repo}}"), "subscriptions_url": format!("{api}/subscriptions"),
        "organizations_url": format!("{api}/orgs"), "repos_url": format!("{api}/repos"),
        "events_url": format!("{api}/events{{/privacy}}"), "received_events_url": format!("{api}/received_events"),
        "type": kind, "user_view_type": "public", "site_admin": false,
    })
}

/// A repository with all its URLs.
fn repository() -> Value {
    let repository = "https://api.github.com/repos/example-team/checkout-service";
    let addresses = [
        "archive_url",
        "assignees_url",
        "blobs_url",
        "branches_url",
        "collaborators_url",
        "comments_url",
        "commits_url",
        "compare_url",
        "contents_url",
        "contributors_url",
        "deployments_url",
        "downloads_url",
        "events_url",
        "forks_url",
        "git_commits_url",
        "git_refs_url",
        "git_tags_url",
        "hooks_url",
        "issue_comment_url",
        "issue_events_url",
        "issues_url",
        "keys_url",
        "labels_url",
        "languages_url",
        "merges_url",
        "milestones_url",
        "notifications_url",
        "pulls_url",
        "releases_url",
        "stargazers_url",
        "statuses_url",
        "subscribers_url",
        "subscription_url",
        "tags_url",
        "teams_url",
        "trees_url",
    ];
    let mut value = json!({
        "id": 987_654_321, "node_id": "R_kgDOExample", "name": "checkout-service",
        "full_name": "example-team/checkout-service", "private": true, "owner": account("example-team", "Organization"),
        "html_url": "https://github.com/example-team/checkout-service", "description": "Takes the money", "fork": false,
        "url": repository, "created_at": "2024-02-03T04:05:06Z", "updated_at": "2026-11-20T08:00:00Z",
        "pushed_at": "2026-11-21T19:58:00Z", "size": 18_204, "stargazers_count": 3, "watchers_count": 3,
        "language": "Rust", "has_issues": true, "has_projects": true, "has_downloads": true, "has_wiki": false,
        "has_pages": false, "forks_count": 0, "archived": false, "disabled": false, "open_issues_count": 12,
        "license": null, "topics": ["payments", "service"], "visibility": "private", "default_branch": "main",
    });
    if let Value::Object(members) = &mut value {
        members.extend(addresses.map(|it| {
            let address = format!("{repository}/{}", it.trim_end_matches("_url"));
            (it.to_owned(), address.into())
        }));
    }
    value
}

/// A `package` event of GitHub for a tagged image, about 12 KB.
pub fn ghcr() -> Vec<u8> {
    let layers: Vec<_> = (0..8)
        .map(|it| {
            json!({"digest": digest(100 + it), "media_type": "application/vnd.oci.image.layer.v1.tar+gzip", "size": 31_415_926})
        })
        .collect();
    let labels = json!({
        "org.opencontainers.image.created": "2026-11-21T19:58:30.123Z",
        "org.opencontainers.image.description": "Takes the money",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.revision": "0123456789abcdef0123456789abcdef01234567",
        "org.opencontainers.image.source": "https://github.com/example-team/checkout-service",
        "org.opencontainers.image.title": "checkout-service",
        "org.opencontainers.image.url": "https://github.com/example-team/checkout-service",
        "org.opencontainers.image.version": "1.4.2",
    });
    let version = json!({
        "id": 55_667_788, "version": digest(1), "summary": "", "name": digest(1), "description": "", "blob_store": "s3",
        "body": "", "body_html": "", "manifest": "", "html_url": "https://github.com/orgs/example-team/packages/container/checkout-service/55667788",
        "tag_name": "1.4.2", "target_commitish": "main", "target_oid": "0123456789abcdef0123456789abcdef01234567",
        "draft": false, "prerelease": false, "created_at": "2026-11-21T20:00:00Z", "updated_at": "2026-11-21T20:00:01Z",
        "metadata": [],
        "container_metadata": {
            "tag": {"name": "1.4.2", "digest": digest(1)},
            "labels": {
                "description": "Takes the money", "source": "https://github.com/example-team/checkout-service",
                "revision": "0123456789abcdef0123456789abcdef01234567", "image_url": "", "licenses": "Apache-2.0",
                "all_labels": labels,
            },
            "manifest": {
                "digest": digest(1), "media_type": "application/vnd.oci.image.manifest.v1+json",
                "uri": format!("repositories/example-team/checkout-service/manifests/{}", digest(1)), "size": 2_482,
                "config": {"digest": digest(2), "media_type": "application/vnd.oci.image.config.v1+json", "size": 7_023},
                "layers": layers,
            },
        },
        "package_files": [], "author": account("deploy-robot", "User"),
        "source_url": "https://github.com/example-team/checkout-service",
        "installation_command": "docker pull ghcr.io/example-team/checkout-service:1.4.2",
        "package_url": "ghcr.io/example-team/checkout-service:1.4.2",
    });
    let hook = json!({
        "action": "published",
        "package": {
            "id": 4_455_667, "name": "checkout-service", "namespace": "example-team", "description": "",
            "ecosystem": "CONTAINER", "package_type": "CONTAINER",
            "html_url": "https://github.com/orgs/example-team/packages/container/package/checkout-service",
            "created_at": "2024-02-03T05:00:00Z", "updated_at": "2026-11-21T20:00:01Z",
            "owner": account("example-team", "Organization"), "package_version": version,
            "registry": {
                "about_url": "https://docs.github.com/packages/learn-github-packages/introduction-to-github-packages",
                "name": "GitHub CONTAINER registry", "type": "CONTAINER", "url": "https://ghcr.io/example-team/checkout-service",
                "vendor": "GitHub Inc",
            },
        },
        "repository": repository(),
        "organization": {"login": "example-team", "id": 1_234_567, "url": "https://api.github.com/orgs/example-team", "description": ""},
        "sender": account("deploy-robot", "User"),
    });
    hook.to_string().into_bytes()
}

/// [`ghcr`] of another image for each number.
pub fn ghcr_of(number: usize) -> Vec<u8> {
    let body = String::from_utf8_lossy(&ghcr()).replace(&digest(1), &digest(1_000_000 + number));
    body.into_bytes()
}

/// The smallest valid `package` event, with another image for each number.
pub fn short_ghcr_of(number: usize) -> Vec<u8> {
    let hook = json!({
        "action": "published",
        "package": {
            "name": "checkout-service", "namespace": "example-team", "owner": {"login": "example-team"},
            "package_type": "CONTAINER",
            "package_version": {
                "version": digest(number), "package_url": "ghcr.io/example-team/checkout-service:1.4.2",
                "container_metadata": {"tag": {"name": "1.4.2", "digest": digest(number)}},
            },
        },
        "sender": {"login": "deploy-robot"},
    });
    hook.to_string().into_bytes()
}

/// A `PUSH_ARTIFACT` notification of Harbor in its default format, about 4 KB: eleven tags at once. Current versions
/// of Harbor send one resource at a time, in a tenth of that size; several resources are more work.
pub fn harbor() -> Vec<u8> {
    let repository = "production/payments/checkout-service";
    let resources: Vec<_> = (0..11)
        .map(|it| {
            let tag = format!("1.4.{it}-20261121.{it}-build.77{it:02}-gitrevision.0123456789abcdef0123456789abcdef0123456{it:x}");
            json!({
                "digest": digest(it), "tag": tag,
                "resource_url": format!("harbor.platform.example.com/{repository}:{tag}"),
            })
        })
        .collect();
    let notification = json!({
        "type": "PUSH_ARTIFACT", "occur_at": 1_795_291_200, "operator": "robot$production+deployer",
        "event_data": {
            "resources": resources,
            "repository": {
                "date_created": 1_706_936_706, "name": "payments/checkout-service", "namespace": "production",
                "repo_full_name": repository, "repo_type": "private",
            },
        },
    });
    notification.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payloads_have_the_documented_sizes() {
        assert!((11_500..12_700).contains(&ghcr().len()), "{}", ghcr().len());
        assert!(
            (3_900..4_300).contains(&harbor().len()),
            "{}",
            harbor().len()
        );
    }
}
