//! The span of one request, exported when its response has ended.

use std::{sync::Arc, time::SystemTime};

use http::{Method, StatusCode, Uri, request};
use minnow_model::{Code, RequestId};
use minnow_runtime::{Function, TraceContext};
use minnow_telemetry::{SpanRecord, Tracer};

/// A request that is being traced. Recorded on drop.
pub(crate) struct ServerSpan {
    tracer: Tracer,
    id: RequestId,
    trace: TraceContext,
    start: SystemTime,
    method: Method,
    uri: Uri,
    function: Option<Arc<Function>>,
    status: StatusCode,
    error: Option<Code>,
}

impl ServerSpan {
    /// Begins the span of the request with this head, if it is to be recorded.
    pub(crate) fn begin(
        tracer: &Tracer,
        head: &request::Parts,
        id: RequestId,
        trace: TraceContext,
    ) -> Option<Box<Self>> {
        let is_sampled = trace.flags & 1 == 1;
        is_sampled.then(|| {
            Box::new(Self {
                tracer: tracer.clone(),
                id,
                trace,
                start: SystemTime::now(),
                method: head.method.clone(),
                uri: head.uri.clone(),
                function: None,
                // What nginx notes for a client that went away before there was a status.
                status: StatusCode::from_u16(499).unwrap_or_default(),
                error: None,
            })
        })
    }

    pub(crate) fn set_function(&mut self, function: &Arc<Function>) {
        self.function = Some(Arc::clone(function));
    }

    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub(crate) fn set_error(&mut self, code: Code) {
        self.error = Some(code);
    }
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        let spec = self.function.as_ref().map(|function| function.spec());
        self.tracer.record(SpanRecord {
            trace_id: self.id.0,
            span_id: self.trace.span_id,
            parent_id: self.trace.parent_id,
            flags: self.trace.flags,
            start: self.start,
            end: SystemTime::now(),
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status.as_u16(),
            app: spec.map(|spec| &spec.app),
            function: spec.map(|spec| &spec.function),
            version: spec.map(|spec| &spec.version),
            error: self.error,
        });
    }
}
