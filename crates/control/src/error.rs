//! Why the control plane refuses something, and what the caller is told.

use minnow_model::{AppName, Code, Digest, FunctionName, Problem, Version, deployment::DeployError};
use minnow_store::StoreError;

/// Why an action was refused or failed. Whatever it is, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no app `{0}`; `minnow publish` makes it, `minnow apps` lists those that there are")]
    NoApp(AppName),
    #[error("app `{0}` has no version {1}; `minnow versions` lists those that it has, `minnow publish {1}` makes it")]
    NoVersion(AppName, Version),
    #[error("app `{0}` has no published version; publish one first")]
    NothingPublished(AppName),
    #[error("app `{0}` has no live deployment; deploy a version first")]
    NothingLive(AppName),
    #[error("no live version of app `{0}` has a function `{1}`")]
    NoFunction(AppName, FunctionName),
    #[error("there is no blob {0}")]
    NoBlob(Digest),
    #[error("there is no token with the id `{0}`")]
    NoToken(String),
    /// The content is not valid. One entry for each mistake.
    #[error("{detail}")]
    Invalid { detail: String, errors: Vec<String> },
    #[error("{app}@{version} is published with other content ({published}); versions are immutable, use a new one")]
    VersionExists { app: AppName, version: Version, published: Digest },
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    TooLarge(String),
    /// The client went away, or sent something that is not HTTP, in the middle of an upload.
    #[error("the upload broke off: {0}")]
    Incomplete(String),
    /// Code that does not compile: what kind of failure it is, and a line for each function.
    #[error("{}", errors.join("; "))]
    Compile { code: Code, errors: Vec<String> },
    /// A function failed while it was invoked through the API.
    #[error(transparent)]
    Function(Box<Problem>),
    #[error(transparent)]
    Deploy(#[from] DeployError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Logs(#[from] minnow_telemetry::LogError),
    /// The node's own state is not what it wrote.
    #[error("the registry holds what it should not: {0}")]
    Corrupt(String),
    /// The work was cancelled because the node is stopping.
    #[error("the node is shutting down")]
    ShuttingDown,
}

impl From<minnow_store::rusqlite::Error> for ControlError {
    fn from(error: minnow_store::rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ControlError {
    /// A mistake in what the caller sent.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid { detail: detail.into(), errors: Vec::new() }
    }

    /// The stable code that the caller gets.
    pub fn code(&self) -> Code {
        match self {
            Self::NoApp(_)
            | Self::NoVersion(..)
            | Self::NothingPublished(_)
            | Self::NothingLive(_)
            | Self::NoFunction(..)
            | Self::NoBlob(_)
            | Self::NoToken(_) => Code::NotFound,
            Self::Invalid { .. } | Self::Deploy(DeployError::Weight(_)) => Code::Invalid,
            Self::VersionExists { .. } => Code::VersionExists,
            Self::Conflict(_) | Self::Deploy(_) => Code::Conflict,
            Self::TooLarge(_) | Self::Store(StoreError::TooLarge { .. }) => Code::TooLarge,
            Self::Incomplete(_) => Code::BadRequest,
            Self::Compile { code, .. } => *code,
            Self::Function(problem) => problem.code,
            Self::Store(StoreError::DigestMismatch { .. }) => Code::DigestMismatch,
            Self::Store(StoreError::Full) => Code::StorageFull,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::Store(_) | Self::Logs(_) | Self::Corrupt(_) => Code::Internal,
        }
    }

    /// What the caller is told. Inner detail stays with the node, which logs it.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.code());
        match self {
            Self::Invalid { detail, errors } => problem.detail(detail).errors(errors.clone()),
            Self::Function(problem) => Problem::clone(problem),
            _ if matches!(problem.code, Code::Internal | Code::StorageFull) => problem,
            Self::Compile { errors, .. } if errors.len() > 1 => problem.errors(errors.clone()),
            _ => problem.detail(self.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_507_and_inner_detail_stays_inside() {
        let full = ControlError::from(StoreError::Full).problem();
        assert_eq!((full.status, full.code), (507, Code::StorageFull));
        let path = std::path::Path::new("/secret/place");
        let inner = ControlError::from(StoreError::io(path, std::io::Error::other("broken"))).problem();
        assert_eq!((inner.status, inner.detail), (500, None));
        let full = StoreError::io(path, std::io::ErrorKind::StorageFull.into());
        assert_eq!(ControlError::from(full).code(), Code::StorageFull);
    }

    #[test]
    fn inner_detail_of_the_compiler_stays_inside() {
        let compile = |code| ControlError::Compile { code, errors: vec!["a".into(), "b".into()] }.problem();
        assert_eq!(compile(Code::CompileFailed).errors, ["a", "b"]);
        assert_eq!(compile(Code::Internal), Problem::new(Code::Internal));
    }
}
