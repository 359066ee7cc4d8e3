//! Why the control plane refuses something, and what the caller is told.

use minnow_events::{
    EventsError,
    invokes::{MAX_KEPT_RUNS, RESULT_KEPT},
};
use minnow_model::{
    AppName, Code, Digest, FunctionName, Problem, RequestId, StoreKind, StoreName, VariableName, Version,
    deployment::DeployError,
};
use minnow_runtime::data::{codes, signed::SignError};
use minnow_store::{BucketError, KvError, SqlError, StoreError, TopicError, VaultError, topic::Bound};

/// Why an action was refused or failed. Whatever it is, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("there is no app `{0}`; `minnow publish` makes it, `minnow apps` lists those that there are")]
    NoApp(AppName),
    #[error(
        "the app `{0}` was deleted, and calls of functions that began before still use its data; its name is free once they have \
         ended and its data is gone"
    )]
    BeingDeleted(AppName),
    #[error("app `{0}` has no version {1}; `minnow versions` lists those that it has, `minnow publish {1}` makes it")]
    NoVersion(AppName, Version),
    #[error("app `{0}` has no published version; publish one first")]
    NothingPublished(AppName),
    #[error("app `{0}` has no live deployment; deploy a version first")]
    NothingLive(AppName),
    #[error("no live version of app `{0}` has a function `{1}`")]
    NoFunction(AppName, FunctionName),
    #[error("app `{0}` has no variable `{1}`; `minnow config list` shows those that it has")]
    NoVariable(AppName, VariableName),
    #[error("app `{0}` has no secret `{1}`; `minnow secret list` shows those that it has")]
    NoSecret(AppName, VariableName),
    /// A line for each secret that a function was granted and cannot have.
    #[error("{}", errors.join("; "))]
    MissingSecrets { errors: Vec<String> },
    #[error("there is no blob {0}")]
    NoBlob(Digest),
    #[error("there is no token with the id `{0}`")]
    NoToken(String),
    #[error("app `{app}` has no {} `{name}`{}", kind.noun(), there.as_ref().map(|there| format!("; it has {there}")).unwrap_or_default())]
    NoStore { app: AppName, kind: StoreKind, name: StoreName, there: Option<String> },
    #[error("no live app has a topic `{0}`; `minnow topic list --app APP` shows those of an app")]
    NoTopic(StoreName),
    #[error(
        "app `{0}` has no run `{1}`; what came of one is kept for {hours} hours, of the newest {MAX_KEPT_RUNS}",
        hours = RESULT_KEPT.as_secs() / 3600
    )]
    NoRun(AppName, RequestId),
    #[error("the store has no key `{0}`")]
    NoKey(String),
    /// A migration that was to run before a deploy.
    #[error("the migrations of the sql store `{store}` did not run, so nothing was deployed: {error}")]
    Migration { store: StoreName, error: SqlError },
    #[error(transparent)]
    Kv(KvError),
    #[error(transparent)]
    Sql(SqlError),
    #[error(transparent)]
    Bucket(BucketError),
    #[error(transparent)]
    Topic(TopicError),
    /// A schedule that is not there, or of which there are several; or too many runs that wait.
    #[error(transparent)]
    Events(EventsError),
    #[error("the blob is not as `if-match` or `if-none-match` asks for; nothing was changed")]
    Unmet,
    #[error(transparent)]
    Sign(#[from] SignError),
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
    #[error(transparent)]
    Vault(#[from] VaultError),
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
            | Self::NoVariable(..)
            | Self::NoSecret(..)
            | Self::NoBlob(_)
            | Self::NoStore { .. }
            | Self::NoTopic(_)
            | Self::NoRun(..)
            | Self::NoKey(_)
            | Self::NoToken(_) => Code::NotFound,
            Self::Invalid { .. } | Self::Deploy(DeployError::Weight(_)) => Code::Invalid,
            Self::VersionExists { .. } => Code::VersionExists,
            Self::Conflict(_) | Self::BeingDeleted(_) | Self::MissingSecrets { .. } | Self::Deploy(_) => Code::Conflict,
            Self::TooLarge(_) => Code::TooLarge,
            Self::Incomplete(_) => Code::BadRequest,
            Self::Compile { code, .. } => *code,
            Self::Function(problem) => problem.code,
            Self::ShuttingDown => Code::ShuttingDown,
            Self::Unmet => Code::PreconditionFailed,
            Self::Sign(error) if error.is_refusal() => Code::Invalid,
            Self::Kv(error) => codes::of_kv(error),
            Self::Bucket(error) => codes::of_bucket(error),
            Self::Topic(error) => codes::of_topic(error),
            Self::Events(EventsError::NoSchedule(..)) => Code::NotFound,
            Self::Events(EventsError::WhichFunction { .. }) => Code::Invalid,
            Self::Events(EventsError::TooManyRuns(_) | EventsError::TooManyAsked(_)) => Code::Overloaded,
            Self::Events(_) => Code::Internal,
            Self::Migration { error, .. } | Self::Sql(error) => codes::of_sql(error),
            Self::Store(error) => codes::of_store(error),
            Self::Sign(_) | Self::Logs(_) | Self::Vault(_) | Self::Corrupt(_) => Code::Internal,
        }
    }

    /// What the caller is told. Inner detail stays with the node, which logs it.
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.code());
        match self {
            Self::Invalid { detail, errors } => problem.detail(detail).errors(errors.clone()),
            Self::MissingSecrets { errors } if errors.len() > 1 => {
                problem.detail("secrets are missing").errors(errors.clone())
            }
            Self::Function(problem) => Problem::clone(problem),
            // That a store has reached its bound is for its app to know, and names no file.
            Self::Bucket(BucketError::Full { .. })
            | Self::Kv(KvError::Full)
            | Self::Topic(TopicError::Full(Bound::Bytes(_) | Bound::Messages(_)))
            | Self::Sql(SqlError::Full)
            | Self::Migration { error: SqlError::Full, .. } => problem.detail(self.to_string()),
            _ if matches!(problem.code, Code::Internal | Code::StorageFull | Code::StoreDamaged) => problem,
            Self::Compile { errors, .. } if errors.len() > 1 => problem.errors(errors.clone()),
            _ => problem.detail(self.to_string()),
        }
    }
}

impl From<BucketError> for ControlError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Store(error) => Self::Store(error),
            error => Self::Bucket(error),
        }
    }
}

impl From<EventsError> for ControlError {
    fn from(error: EventsError) -> Self {
        match error {
            EventsError::Topic(error) => error.into(),
            EventsError::Store(error) => Self::Store(error),
            error => Self::Events(error),
        }
    }
}

impl From<TopicError> for ControlError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Store(error) => Self::Store(error),
            error => Self::Topic(error),
        }
    }
}

impl From<KvError> for ControlError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::Store(error) => Self::Store(error),
            error => Self::Kv(error),
        }
    }
}

impl From<SqlError> for ControlError {
    fn from(error: SqlError) -> Self {
        match error {
            // As those of the other kinds of stores.
            SqlError::TooManyOpen { max } => Self::Store(StoreError::TooManyOpen { max }),
            SqlError::BeingDeleted => Self::Store(StoreError::BeingDeleted),
            error => Self::Sql(error),
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
