//! What stands between the CLI, which an image may take over, and what it must not have.
//!
//! Each measure is taken where the platform lets us take it; that one is refused keeps nothing from being scanned.

use std::path::{Path, PathBuf};

use strum::IntoStaticStr;

use super::processes;

/// Something the platform may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Measure {
    /// Our memory and environment are closed to other processes of our user.
    Private,
    /// We are the parent of whatever a scan leaves, and so can find it.
    Orphans,
    /// The CLI writes only where its scan may, and reads no file of scanhook.
    Files,
    /// The CLI can signal no process outside of its scan.
    Signals,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Private, Self::Orphans, Self::Files, Self::Signals];

    /// Its word in output.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What may happen without it, in the words of a sentence that begins with "an image that takes over the CLI".
    pub fn danger(self) -> &'static str {
        match self {
            Self::Private => {
                "may read the memory and the environment of scanhook, with all secrets"
            }
            Self::Orphans => "may leave processes that outlive their scan",
            Self::Files => "may read and write whatever scanhook may, the files of other scans too",
            Self::Signals => "may end scanhook and other scans",
        }
    }
}

/// How the CLI is kept from what it must not have.
#[derive(Clone, Debug, Default)]
pub struct Confinement {
    /// The program that is a supervisor by the name it is started with; none where none can be.
    supervisor: Option<PathBuf>,
    /// Where the CLI may not even read.
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "only Linux can hide it")
    )]
    hidden: Vec<PathBuf>,
    /// What is refused here, and why.
    refused: Vec<(Measure, String)>,
}

impl Confinement {
    /// By this very program, which calls [`supervise`](super::supervise) first. A confined CLI can't read `hidden`: files, and
    /// directories with all that is below them.
    pub async fn of_this_program(hidden: Vec<PathBuf>) -> Self {
        // Also when the file was replaced or removed since. Source: proc(5), `/proc/PID/exe`.
        Self::by(Path::new("/proc/self/exe"), hidden).await
    }

    /// By a program that calls [`supervise`](super::supervise) first.
    pub async fn by(supervisor: &Path, hidden: Vec<PathBuf>) -> Self {
        match Box::pin(processes::try_supervisor(supervisor, Measure::ALL.len())).await {
            Ok(answers) => {
                let answers = Measure::ALL.into_iter().zip(answers);
                Self {
                    supervisor: Some(supervisor.to_owned()),
                    hidden,
                    refused: answers.filter(|(_, it)| it != "+").collect(),
                }
            }
            Err(why) => Self {
                supervisor: None,
                hidden,
                refused: Measure::ALL.map(|it| (it, why.clone())).to_vec(),
            },
        }
    }

    /// What this platform refuses, and why.
    pub fn refused(&self) -> &[(Measure, String)] {
        &self.refused
    }

    /// Whether the platform takes a measure.
    pub fn takes(&self, measure: Measure) -> bool {
        !self.refused.iter().any(|(it, _)| *it == measure) && self.supervisor.is_some()
    }

    /// Logs what this platform refuses, for who operates it.
    pub fn log_refused(&self) {
        for (measure, why) in &self.refused {
            tracing::warn!(
                event = "confinement.refused",
                measure = measure.as_str(),
                "an image that takes over the CLI {}: this platform refuses what would keep it from that: {why}",
                measure.danger()
            );
        }
    }

    pub(super) fn supervisor(&self) -> Option<&Path> {
        self.supervisor.as_deref()
    }

    /// What a scan must not read, `more` too.
    #[cfg(target_os = "linux")]
    pub(super) fn hidden_with(&self, more: &Path) -> Vec<PathBuf> {
        let hidden = self.hidden.iter().map(PathBuf::as_path).chain([more]);
        // Now, since a mounted secret that is renewed is another file by the same name.
        hidden
            .map(|it| it.canonicalize().unwrap_or_else(|_| it.to_owned()))
            .collect()
    }
}

/// Closes memory and environment of this process to others of its user, and makes it end every child that it did not start
/// for a scan. For a program that starts no other processes; to be called before any secret is read.
///
/// What the platform refuses is found again, and reported, by [`Confinement`].
pub fn protect() {
    let _ = keep_private();
    processes::own_all_children();
}

/// Source: prctl(2), `PR_SET_DUMPABLE`; proc(5), `/proc/PID/environ` and `mem`.
#[cfg(target_os = "linux")]
pub(super) fn keep_private() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn keep_private() -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}
