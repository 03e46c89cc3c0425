//! The container registry of self-managed GitLab. It is derived from Distribution and sends the same envelope.
//!
//! gitlab.com sends nothing; a CI job can, with the kind `generic`. Source: GitLab's documentation of the container
//! registry, "Configure container registry notifications".

use std::time::Duration;

use super::{Kind, distribution};

pub(super) static KIND: Kind = Kind {
    name: "gitlab",
    title: "GitLab (self-managed)",
    default_registry: None,
    example_registry: "registry.gitlab.example.com",
    // The documented time-out is 500 ms.
    answer_budget: |_| Duration::from_millis(400),
    auth: &["bearer", "token", "basic", "path_token"],
    hmac: None,
    envelopes: &["native"],
    events: &[],
    repo_key: false,
    handshake: false,
    parse: distribution::parse,
    sample: distribution::sample,
    signs: "nothing; it sends the headers you list",
    repeats: "waits 500 ms (raise `timeout`); repeats forever (`threshold`), or a few times and then drops the event (`maxretries`)",
    setup: "\
In /etc/gitlab/gitlab.rb, then gitlab-ctl reconfigure:
  registry['notifications'] = [{
    'name' => 'scanhook',
    'url' => '{url}',
    'timeout' => '5s',
    'threshold' => 5,
    'maxretries' => 5,
    'backoff' => '1s',
    'headers' => { 'Authorization' => ['Bearer <the secret>'] }
  }]",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_push_is_not_an_envelope() {
        let headers = [("x-gitlab-event", "Push Hook")];
        let body = br#"{"object_kind":"push","ref":"refs/heads/main"}"#;
        assert!(crate::kinds::tests::parse(&KIND, &headers, body).starts_with("400 "));
    }
}
