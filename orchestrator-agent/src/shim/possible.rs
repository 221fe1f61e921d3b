//! Whether a program could begin, as far as that is known before a run of it is made. A process of its own looks: a file
//! system that does not answer holds up nobody else.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk;

/// What is to be there. What is absent, or not known yet, is not looked for.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub(crate) struct Needs {
    /// Where it starts.
    pub(crate) directory: Option<PathBuf>,
    /// A path, or a name.
    pub(crate) program: Option<PathBuf>,
    /// Where a name is looked for.
    pub(crate) path: Option<String>,
}

impl Needs {
    /// What keeps it from beginning, and is known now. As another user it may find more in its way.
    pub(crate) fn look(&self) -> io::Result<()> {
        if let Some(directory) = &self.directory
            && let Some(found) = find(directory)?
            && !found.is_dir()
        {
            return Err(no(directory, io::ErrorKind::NotADirectory));
        }
        let Some(program) = &self.program else {
            return Ok(());
        };
        match program.is_absolute() {
            true => match find(program)? {
                Some(found) if !is_program(&found) => {
                    Err(no(program, io::ErrorKind::PermissionDenied))
                }
                _ => Ok(()),
            },
            false => self.look_for(program),
        }
    }

    fn look_for(&self, name: &Path) -> io::Result<()> {
        let Some(path) = self
            .path
            .as_ref()
            .filter(|_| name.components().count() == 1)
        else {
            return Ok(());
        };
        let mut places = std::env::split_paths(path);
        // What is to be found from where it starts is seen there.
        let may_be_in = |place: PathBuf| {
            // Where this user may not look, the program's may.
            let found = || match find(&place.join(name)) {
                Ok(Some(found)) => is_program(&found),
                Ok(None) => true,
                Err(_) => false,
            };
            place.is_relative() || found()
        };
        if places.any(may_be_in) {
            return Ok(());
        }
        let what = format!("{}: no such program in PATH, {path}", name.display());
        Err(io::Error::new(io::ErrorKind::NotFound, what))
    }
}

/// What there is; `None` where that is not known.
fn find(path: &Path) -> io::Result<Option<Metadata>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(why)
            if matches!(
                why.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Err(disk::of(path, &why))
        }
        Err(_) => Ok(None),
    }
}

/// Whether somebody may run it.
fn is_program(found: &Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

/// As the system says it of one that is started.
fn no(path: &Path, kind: io::ErrorKind) -> io::Error {
    let code = match kind {
        io::ErrorKind::NotADirectory => rustix::io::Errno::NOTDIR,
        _ => rustix::io::Errno::ACCESS,
    };
    disk::of(path, &code.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("text"), "no program").unwrap();
        std::fs::write(at("program"), "#!/bin/sh").unwrap();
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("program"), mode).unwrap();
        let path = |places: &[&Path]| {
            let joined = std::env::join_paths(places).unwrap();
            Some(joined.into_string().unwrap())
        };
        let look = |directory: Option<PathBuf>, program: &Path, path: Option<String>| {
            let needs = Needs {
                directory,
                program: Some(program.to_owned()),
                path,
            };
            needs.look().map_err(|why| why.to_string())
        };
        let here = Some(dir.path().to_owned());
        let only_here = || path(&[Path::new("/nowhere"), dir.path()]);
        look(here.clone(), &at("program"), None).unwrap();
        look(None, Path::new("program"), only_here()).unwrap();
        // What is not known is seen when it starts.
        look(None, Path::new("bin/program"), only_here()).unwrap();
        look(None, Path::new("program"), None).unwrap();
        look(None, Path::new("nothing"), path(&[Path::new("bin")])).unwrap();
        for (directory, program, said) in [
            (None, at("nothing"), "nothing: No such file"),
            (None, at("text/program"), "text/program: Not a directory"),
            (None, at("text"), "text: Permission denied"),
            (None, dir.path().to_owned(), "Permission denied"),
            (Some(at("gone")), at("program"), "gone: No such file"),
            (Some(at("text")), at("program"), "text: Not a directory"),
            (
                None,
                "nothing".into(),
                "nothing: no such program in PATH, /nowhere:",
            ),
            (None, "text".into(), "text: no such program in PATH"),
        ] {
            let why = look(directory, &program, only_here()).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
