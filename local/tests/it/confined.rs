//! What an image that takes over the CLI can learn about the server. The scanner's own tests have more.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::world::{Place, YAML};

/// Prints the secrets that it finds in the environment and memory of other processes, and in the server's files.
const SCRIPT: &str = r#"#!/bin/sh
exec 2>&1
find_in() { tr '\0' '\n' 2>/dev/null | grep -a -o 'fake-[a-z]*-of-[A-Z]*' | sort -u | sed "s/^/found in $1: /"; }
for process in /proc/[0-9]*; do
    [ "$process" = "/proc/$$" ] || cat "$process/environ" 2>/dev/null | find_in environment
    sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) rw.*/\1 \2/p' "$process/maps" 2>/dev/null | while read -r from to; do
        [ "$process" = "/proc/$$" ] ||
            dd if="$process/mem" bs=4096 iflag=skip_bytes,count_bytes skip=$((0x$from)) count=$((0x$to - 0x$from)) 2>/dev/null |
            find_in memory
    done
done
cat "$HOME/../../../../token" 2>/dev/null | find_in file
[ -r "$HOME/../../../queue.sqlite" ] && cat "$HOME/../../../queue.sqlite" >/dev/null 2>&1 && echo found: the queue
echo looked at $(ls -d /proc/[0-9]* | wc -l) processes >&2
exit 9
"#;

#[test]
fn an_image_that_takes_over_the_cli_finds_no_secret_of_the_server() {
    let yaml = YAML.replace("env:HUB", "file:token");
    let mut place = Place::with(&yaml);
    fs::write(place.path("token"), "fake-secret-of-FILE").unwrap();
    let cli = place.path("hostile-cli");
    fs::write(&cli, SCRIPT).unwrap();
    fs::set_permissions(&cli, fs::Permissions::from_mode(0o755)).unwrap();
    let (name, value) = ("AWS_SECRET_ACCESS_KEY", "fake-role-of-AWS");
    place.environment.insert(name.to_owned(), value.to_owned());
    place.become_unprivileged();
    let serve = place.serve(&["--scanner-cli=./hostile-cli"]);
    let delivery = place.delivery("harbor", "harbor.example.com/team/app:1");
    let record = place.settled(&serve.queue(&delivery));
    let detail = record["detail"].as_str().unwrap();
    assert!(detail.contains("looked at "), "{detail}");
    assert!(!detail.contains("found"), "{detail}");
}
