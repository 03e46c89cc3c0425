//! `scanhook manual`: shell completions and man pages, generated from the command line's definition.

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::args::{Args, ManualCommand};
use crate::outcome::{Outcome, unusable};
use crate::output;

pub(crate) fn command(command: &ManualCommand) -> anyhow::Result<Outcome> {
    match command {
        ManualCommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Args::command(), "scanhook", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())?;
        }
        ManualCommand::Man { directory } => {
            let write = || -> std::io::Result<()> {
                std::fs::create_dir_all(directory)?;
                clap_mangen::generate_to(Args::command(), directory)
            };
            write()
                .with_context(|| format!("could not write man pages to {}", directory.display()))
                .map_err(unusable)?;
            output::notice(&format!("wrote man pages to {}", directory.display()));
        }
    }
    Ok(Outcome::Fine)
}
