//! The way out in the words of wasi:http.

use std::sync::{Arc, atomic::AtomicU32};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::{Broken, Caller, Egress, EgressError, Patience, connect::BoxError, set_trace};
use crate::{Function, wasm::Owner};

impl Egress {
    /// Sends a request of `function`: see [`Egress::exchange`].
    pub(crate) async fn send(
        &self,
        function: &Function,
        under_way: Arc<AtomicU32>,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
    ) -> Result<Response<WasiBody>, Error> {
        let options = options.unwrap_or_default();
        let patience = Patience {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
        let response = self.exchange(&Caller::of(function.spec()), under_way, request, patience).await?;
        Ok(response.map(|body| body.map_err(Error::from).boxed_unsync()))
    }
}

/// Has a request of the owner's continue its trace, unless the guest has said otherwise.
pub(crate) fn continue_trace(owner: &Owner, request: &mut Request<WasiBody>) {
    // In an instance that several requests share, it is not known for which of them the guest asks.
    if let Owner::Run(run) = owner {
        set_trace(request.headers_mut(), run.id, &run.trace);
    }
}

/// The error code that the guest gets.
impl From<EgressError> for Error {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::Url => Self::HttpRequestUriInvalid,
            EgressError::Denied => Self::HttpRequestDenied,
            EgressError::Prohibited => Self::DestinationIpProhibited,
            EgressError::TooMany | EgressError::NoPlace => Self::ConnectionLimitReached,
            EgressError::Dns => Self::DnsError { rcode: None, info_code: None },
            EgressError::Refused => Self::ConnectionRefused,
            EgressError::Unreachable => Self::DestinationUnavailable,
            EgressError::ConnectTimeout => Self::ConnectionTimeout,
            EgressError::Certificate => Self::TlsCertificateError,
            EgressError::Tls => Self::TlsProtocolError,
            EgressError::AnswerTimeout => Self::ConnectionReadTimeout,
            EgressError::BrokeOff => Self::ConnectionTerminated,
            EgressError::Protocol => Self::HttpProtocolError,
        }
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Http(error) => error.into(),
            Broken::Timeout => Self::ConnectionReadTimeout,
        }
    }
}
