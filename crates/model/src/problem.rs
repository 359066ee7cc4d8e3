//! What a client is told when a request fails: RFC 9457 problem documents with a stable code.
//! `docs/errors.md` is generated from [`Code::all`].

use serde::{Deserialize, Serialize};

use crate::RequestId;

macro_rules! codes {
    ($($variant:ident $text:literal $status:literal $title:literal $meaning:literal;)*) => {
        /// A stable error code. The code never changes its meaning; the words beside it may.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($variant),* }

        impl Code {
            /// Every code, in the order in which the docs list them.
            pub fn all() -> &'static [Code] {
                &[$(Code::$variant),*]
            }

            /// The code as clients see it.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text),* }
            }

            /// The HTTP status that goes with the code.
            pub fn status(self) -> u16 {
                match self { $(Code::$variant => $status),* }
            }

            /// The short, unchanging summary (`title` of RFC 9457).
            pub fn title(self) -> &'static str {
                match self { $(Code::$variant => $title),* }
            }

            /// What the code means and what to do about it, for the docs page.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning),* }
            }
        }
    };
}

codes! {
    // The gateway.
    UnknownApp "unknown_app" 404 "No such app" "No app answers to this host. Check the host name, or deploy the app.";
    NoRoute "no_route" 404 "No such route" "The app has no route or static file for this path.";
    MethodNotAllowed "method_not_allowed" 405 "Method not allowed" "The path exists, but not for this method; `allow` lists those that work.";
    BadRequest "bad_request" 400 "Malformed request" "The request is not valid HTTP, or its host or path cannot be read.";
    RequestTooLarge "request_too_large" 413 "Request body too large" "The request body exceeds the function's `limits.request_body`.";
    SignatureInvalid "signature_invalid" 403 "The signature is not valid" "The signed URL was changed, is for another method, host or content type, or was signed with a key that the node does not have any more: get a new one. At a webhook: the signature is missing, is not that of this body and the secret, or is too old; `detail` says which.";
    SignatureExpired "signature_expired" 403 "The signed URL has expired" "The time for which the URL was good is over. Get a new one.";
    PreconditionFailed "precondition_failed" 412 "A condition of the request does not hold" "What `if-match` or `if-none-match` asks for is not so. Read the blob again and decide anew.";
    InvalidEvent "invalid_event" 400 "The event is not valid" "What was published is no CloudEvent, or exceeds a bound of events; `detail` says what is wrong.";
    RequestTimeout "request_timeout" 408 "The upload came too slowly" "The client sent less than 64 KiB of the upload in 60 seconds, or the body to a webhook did not come within 10 seconds. Try again on a faster line.";
    // The data services, as a function in CGI form reaches them over HTTP.
    NotGranted "not_granted" 403 "Not granted" "The function was not granted this store or the locks, may only read the store, or its owner does not share it any more; `detail` says what to write in which manifest.";
    // Running a function.
    Overloaded "overloaded" 503 "Too many requests at once" "The function's concurrency and queue are full. Try again after `retry-after` seconds, or raise `limits.concurrency` or `limits.queue`.";
    QueueTimeout "queue_timeout" 503 "Waited too long for a free place" "The request waited in the function's queue for as long as `limits.timeout` allows.";
    NodeOverloaded "node_overloaded" 503 "The node is full" "All sandboxes of the node are in use. Try again after `retry-after` seconds.";
    HeldBack "held_back" 503 "The function keeps failing" "The function's process ended again and again, so that it is not started for a while. Try again after `retry-after` seconds; the function's log has the reason.";
    SecretMissing "secret_missing" 503 "A secret is missing" "The function is granted a secret, or the webhook needs one, that is not set or cannot be read, so it does not work. The app's log names it. Run `minnow secret set`; under `minnow dev` a line `NAME=VALUE` in `.dev.vars` does, too.";
    JavascriptUnavailable "javascript_unavailable" 503 "The node cannot run JavaScript" "Deno cannot be found or started on the node. Its log has the reason and the remedy.";
    ShuttingDown "shutting_down" 503 "The node is shutting down" "The node takes no new requests. Try again; another node or the restarted one answers.";
    FunctionTrapped "function_trapped" 500 "The function crashed" "The function trapped, panicked or threw. Its log has the reason under the request id.";
    FunctionExited "function_exited" 500 "The function exited" "The function exited before it answered. Its log has the exit code.";
    NoResponse "no_response" 500 "The function did not answer" "The function returned without setting a response.";
    InvalidResponse "invalid_response" 502 "The function's response is not valid" "The function answered with something that is not an HTTP response, for example without a CGI header, with headers beyond 64 KiB, or in JavaScript with more than 100 of them.";
    MemoryLimit "memory_limit" 500 "The function ran out of memory" "The sandbox needed more than `limits.memory`.";
    CpuLimit "cpu_limit" 500 "The function ran out of CPU time" "The invocation used more CPU time than `limits.cpu`.";
    Timeout "timeout" 504 "The function took too long" "The invocation took longer than `limits.timeout`.";
    LoadFailed "load_failed" 500 "The function could not be started" "The node could not load or start the function's code. The node's log has the reason.";
    Internal "internal" 500 "Internal error" "Something went wrong inside the node. Its log has the reason under the request id.";
    // The control API.
    Unauthorized "unauthorized" 401 "Missing or wrong token" "Send `authorization: Bearer TOKEN` with a token of this node.";
    NotFound "not_found" 404 "Not found" "There is no such app, version, function, store, key or blob.";
    Invalid "invalid" 422 "The request cannot be carried out" "The content is not valid; `detail` and `errors` say where and how to mend it.";
    BrokerUnavailable "broker_unavailable" 503 "The topic cannot be reached" "The store of the topic cannot be used now; nothing was published. Try again in a moment.";
    VersionExists "version_exists" 409 "The version exists with other content" "Versions are immutable. Publish under a new version.";
    Conflict "conflict" 409 "Conflict" "The current state does not allow this; `detail` says why.";
    DigestMismatch "digest_mismatch" 400 "The content does not match its digest" "The content arrived damaged or under a wrong digest. Upload it again.";
    TooLarge "too_large" 413 "Too large" "The content exceeds a bound of the node, of the store or of the signed URL; `detail` names it.";
    CompileFailed "compile_failed" 422 "The code could not be compiled" "The WebAssembly is not valid, imports something unknown, or exceeds the compiler's limits; or the JavaScript module cannot be loaded. `errors` says which.";
    StoreDamaged "store_damaged" 500 "The store is damaged" "The file of the store on the node's disk is damaged; other stores are not affected. The node's log names the file and the damage under the request id. Restore the store from a backup, or delete it.";
    StorageFull "storage_full" 507 "No space left" "The node's disk is full, or the store or the topic has reached its size. Nothing was changed. Free some space and try again.";
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Code::all()
            .iter()
            .copied()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown code `{text}`")))
    }
}

/// An RFC 9457 problem document (`application/problem+json`). What a stranger on the internet sees: `detail` never holds
/// inner detail of the node or of the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// `urn:minnow:problem:CODE`.
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    #[schema(value_type = String, example = "not_found")]
    pub code: Code,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
    /// Several mistakes at once, each with its place and remedy.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<RequestId>,
}

impl Problem {
    /// The content type of a problem document.
    pub const CONTENT_TYPE: &'static str = "application/problem+json";

    pub fn new(code: Code) -> Self {
        Self {
            kind: format!("urn:minnow:problem:{}", code.as_str()),
            title: code.title().into(),
            status: code.status(),
            code,
            detail: None,
            errors: Vec::new(),
            request_id: None,
        }
    }

    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }

    pub fn request_id(mut self, id: RequestId) -> Self {
        self.request_id = Some(id);
        self
    }

    /// The document as JSON bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.title)?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        for error in &self.errors {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
