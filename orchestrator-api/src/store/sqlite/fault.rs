//! What SQLite says when it fails, as what somebody has to do about it.

use std::error::Error;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::types::Type;

use crate::store::StoreError;

/// The file that every message names.
#[derive(Clone, Debug)]
pub(super) struct Place(Arc<PathBuf>);

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self(Arc::new(path.to_owned()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// As [`Self::shared`], of an error that concerns one caller only.
    pub(super) fn fault(&self, error: rusqlite::Error) -> StoreError {
        self.shared(&Arc::new(error))
    }

    /// The situation that this error means. Everybody in a failed transaction is told the same one.
    pub(super) fn shared(&self, error: &Arc<rusqlite::Error>) -> StoreError {
        let place = self.name();
        let source = Box::new(error.clone());
        // SQLite cannot make its index of the log longer: there is no room, under another name.
        let extended = error.sqlite_error().map(|error| error.extended_code);
        if extended == Some(SQLITE_IOERR_SHMSIZE) {
            return StoreError::Full { place };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreError::Full { place },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                StoreError::ReadOnly { place }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                StoreError::Corrupt { place, source }
            }
            Some(_) => StoreError::Failed { place, source },
            None => match **error {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..) => StoreError::Corrupt { place, source },
                _ => StoreError::Failed { place, source },
            },
        }
    }

    /// The same for a COMMIT: where the disk failed under it, what it wrote may or may not be found after a crash.
    pub(super) fn commit(&self, error: &Arc<rusqlite::Error>) -> StoreError {
        match self.shared(error) {
            StoreError::Failed { .. }
                if error.sqlite_error_code() == Some(ErrorCode::SystemIoFailure) =>
            {
                StoreError::Unknown(Box::new(error.clone()))
            }
            other => other,
        }
    }

    pub(super) fn io(&self, error: io::Error) -> StoreError {
        let place = self.name();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { place },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::ReadOnly { place }
            }
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                StoreError::NoDirectory { place }
            }
            _ => StoreError::Failed {
                place,
                source: Box::new(error),
            },
        }
    }

    pub(super) fn corrupt(&self, found: impl Into<Box<dyn Error + Send + Sync>>) -> StoreError {
        StoreError::Corrupt {
            place: self.name(),
            source: found.into(),
        }
    }

    pub(super) fn gone(&self) -> StoreError {
        StoreError::Gone { place: self.name() }
    }

    /// Which file has this name now.
    pub(super) fn file(&self) -> Option<(u64, u64)> {
        let found = self.0.metadata().ok()?;
        Some((found.dev(), found.ino()))
    }

    pub(super) fn empty(&self) -> StoreError {
        StoreError::Empty { place: self.name() }
    }

    pub(super) fn missing(&self) -> StoreError {
        StoreError::Missing { place: self.name() }
    }

    pub(super) fn newer(&self, found: u32, known: u32) -> StoreError {
        StoreError::Newer {
            place: self.name(),
            found,
            known,
        }
    }

    pub(super) fn name(&self) -> String {
        self.0.display().to_string()
    }
}

/// A column holds what this program never writes.
pub(super) fn damaged(
    column: usize,
    found: impl Into<Box<dyn Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, found.into())
}

/// The caller asked for what cannot be: a bug in it, and no fault of the file.
pub(super) fn misuse(what: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(what.into())
}
