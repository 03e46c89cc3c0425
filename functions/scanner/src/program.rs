//! Where a tool's program is.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use scanhook_config::Environment;
use scanhook_core::tools::Tool;

/// The program that a person names: a bare name is looked for in `PATH`, and a link stays one, for its name counts.
pub fn named_program(
    tool: &Tool,
    named: &Path,
    environment: &Environment,
) -> anyhow::Result<PathBuf> {
    if named.components().count() == 1 {
        find_program(tool, named, environment)
    } else {
        Ok(std::path::absolute(named)?)
    }
}

/// The tool's program: at `expected`, else found by `PATH` under its own name.
pub fn find_program(
    tool: &Tool,
    expected: &Path,
    environment: &Environment,
) -> anyhow::Result<PathBuf> {
    let path = environment("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|it| it.join(tool.program));
    std::iter::once(expected.to_owned())
        .chain(in_path.filter(|it| it.is_absolute()))
        .find(|it| it.is_file())
        .with_context(|| format!("no CLI at {}, nor in PATH", expected.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use scanhook_core::tools::sysdig;

    use super::*;

    #[test]
    fn the_cli_is_where_it_is_expected_or_in_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let (expected, path) = (
            directory.path().join("expected"),
            directory.path().to_owned(),
        );
        let environment: Environment = Arc::new(move |name| {
            (name == "PATH").then(|| format!("relative:/nowhere:{}", path.display()))
        });
        assert!(find_program(&sysdig::TOOL, &expected, &environment).is_err());
        let in_path = directory.path().join("sysdig-cli-scanner");
        std::fs::write(&in_path, "").unwrap();
        assert_eq!(
            find_program(&sysdig::TOOL, &expected, &environment).unwrap(),
            in_path
        );
        std::fs::write(&expected, "").unwrap();
        assert_eq!(
            find_program(&sysdig::TOOL, &expected, &environment).unwrap(),
            expected
        );
    }
}
