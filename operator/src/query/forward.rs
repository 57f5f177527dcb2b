//! Hands a call on to the ledger as it is, once its caller is admitted. Messages are not looked into: the ledger's service judges them.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response};
use tonic::{Status, body::Body, codegen::Service, server::NamedService};

use super::{
    NAMESPACE_HEADER, Reviews, View, Views,
    permission::{Method, method},
};
use crate::metrics::Metrics;

/// What of a caller's headers goes on. All else stays here, the token first of all.
const CARRIED: [&str; 6] =
    ["content-type", "te", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "traceparent"];

/// The service; clones share everything.
#[derive(Clone)]
pub(super) struct Forward(Arc<Inner>);

struct Inner {
    reviews: Reviews,
    views: Views,
    metrics: Metrics,
}

impl Forward {
    pub(super) fn new(reviews: Reviews, views: Views, metrics: Metrics) -> Self {
        Self(Arc::new(Inner { reviews, views, metrics }))
    }
}

impl NamedService for Forward {
    const NAME: &'static str = "depin.v1.Ledger";
}

impl Service<Request<Body>> for Forward {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let asked = method(request.uri().path());
            let answer = inner.answer(request, asked).await;
            let result = match &answer {
                Ok(_) => "forwarded",
                Err(status) => match status.code() {
                    tonic::Code::Unauthenticated => "unauthenticated",
                    tonic::Code::PermissionDenied | tonic::Code::Unimplemented => "denied",
                    _ => "failed",
                },
            };
            inner.metrics.query(asked.map_or("other", |method| method.name), result);
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

impl Inner {
    async fn answer(&self, request: Request<Body>, asked: Option<Method>) -> Result<Response<Body>, Status> {
        let method = asked.ok_or_else(|| Status::unimplemented("the operator offers no such question"))?;
        let view = view(request.headers(), method)?;
        let caller = self.reviews.admit(bearer(request.headers())?, method, &view).await?;
        tracing::info!(user = caller.0, method = method.name, %view, "a question to the ledger");
        let mut channel = self.views.channel(&view).await?;
        let (parts, body) = request.into_parts();
        let mut forwarded = Request::new(body);
        *forwarded.method_mut() = parts.method;
        *forwarded.version_mut() = parts.version;
        *forwarded.uri_mut() = parts.uri.path().parse().map_err(|_| Status::internal("the path is no path"))?;
        *forwarded.headers_mut() = carried(&parts.headers);
        let away = |error: tonic::transport::Error| {
            tracing::warn!(%error, "the ledger does not answer a question");
            Status::unavailable("the gateway's ledger does not answer the operator; is the gateway ready?")
        };
        poll_fn(|context| channel.poll_ready(context)).await.map_err(away)?;
        channel.call(forwarded).await.map_err(away)
    }
}

/// What the caller asks about.
fn view(headers: &HeaderMap, method: Method) -> Result<View, Status> {
    let named = headers.get(NAMESPACE_HEADER).and_then(|value| value.to_str().ok()).and_then(View::parse);
    let view = named.ok_or_else(|| {
        Status::invalid_argument(format!("{NAMESPACE_HEADER}: must be the name of a namespace, or * for all"))
    })?;
    if method.wide && view != View::All {
        return Err(Status::permission_denied(format!("{} concerns all namespaces: ask with -A", method.name)));
    }
    Ok(view)
}

fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let value = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        value.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    token
        .map(|(_, token)| token.trim())
        .ok_or_else(|| Status::unauthenticated("a bearer token of a ServiceAccount is needed"))
}

fn carried(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| CARRIED.contains(&name.as_str()));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn the_token_stays_here() {
        let asked = headers(&[
            ("authorization", "Bearer secret"),
            ("cookie", "secret"),
            (NAMESPACE_HEADER, "town"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]);
        assert_eq!(carried(&asked), headers(&[("te", "trailers"), ("content-type", "application/grpc")]));
        assert_eq!(bearer(&asked).unwrap(), "secret");
        for other in
            [headers(&[]), headers(&[("authorization", "Basic c2VjcmV0")]), headers(&[("authorization", "Bearer")])]
        {
            assert_eq!(bearer(&other).unwrap_err().code(), tonic::Code::Unauthenticated);
        }
    }

    #[test]
    fn what_concerns_all_is_asked_for_all() {
        let (read, release) =
            (method("/depin.v1.Ledger/GetInfo").unwrap(), method("/depin.v1.Ledger/ReleaseHold").unwrap());
        let town = headers(&[(NAMESPACE_HEADER, "town")]);
        assert_eq!(view(&town, read).unwrap(), View::Namespace("town".into()));
        assert_eq!(view(&town, release).unwrap_err().code(), tonic::Code::PermissionDenied);
        assert_eq!(view(&headers(&[(NAMESPACE_HEADER, "*")]), release).unwrap(), View::All);
        assert_eq!(view(&headers(&[]), read).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
