//! Asks the API server who shows a token, and whether RBAC allows what it asks. Nothing is remembered: a right that is taken away is gone.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{
    AUDIENCE, View,
    permission::{GROUP, Method, RESOURCE},
};

/// Reviews at a time: strangers' tokens must not crowd the operator out of the API server.
const AT_ONCE: usize = 8;
/// How long one may take, its wait included.
const PATIENCE: Duration = Duration::from_secs(10);
/// No token is longer; a header of this size is not even asked about.
const MAX_TOKEN: usize = 16 << 10;

/// Reviews by the API server; clones share the limit.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    places: Arc<Semaphore>,
}

/// The caller that RBAC lets in.
#[derive(Debug)]
pub(super) struct Caller(pub(super) String);

impl Reviews {
    /// By `client`'s API server.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Who shows `token`, if it may call `method` for `view`.
    pub(super) async fn admit(&self, token: &str, method: Method, view: &View) -> Result<Caller, Status> {
        let reviewed = async {
            let _place = self.places.acquire().await.map_err(|error| Status::internal(error.to_string()))?;
            let user = self.authenticate(token).await?;
            self.authorize(user, method, view).await
        };
        tokio::time::timeout(PATIENCE, reviewed)
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("the API server reviews no tokens now; try again")))
    }

    async fn authenticate(&self, token: &str) -> Result<UserInfo, Status> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(refused("it has no token's length"));
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![AUDIENCE.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await.map_err(unreviewed)?;
        let status = reviewed.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(refused(status.error.as_deref().unwrap_or("the API server does not know it")));
        }
        // An API server that knows no audiences names none: then the token may be meant for it alone.
        if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
            return Err(refused("it was made for another audience"));
        }
        status.user.ok_or_else(|| refused("the API server names no user"))
    }

    async fn authorize(&self, user: UserInfo, method: Method, view: &View) -> Result<Caller, Status> {
        let name = user.username.clone().unwrap_or_default();
        let attributes = ResourceAttributes {
            group: Some(GROUP.to_owned()),
            resource: Some(RESOURCE.to_owned()),
            verb: Some(method.verb.to_owned()),
            namespace: view.namespace().map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username,
            uid: user.uid,
            groups: user.groups,
            extra: user.extra,
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &review).await.map_err(unreviewed)?;
        if reviewed.status.is_some_and(|status| status.allowed && status.denied != Some(true)) {
            return Ok(Caller(name));
        }
        Err(Status::permission_denied(format!(
            "{name} may not {} the {RESOURCE} of {view}: give it a role with apiGroups [{GROUP}], resources [{RESOURCE}], verbs [{}]",
            method.verb, method.verb
        )))
    }
}

fn refused(why: &str) -> Status {
    Status::unauthenticated(format!(
        "the token is not accepted: {why}; it must be a ServiceAccount's for the audience {AUDIENCE}"
    ))
}

fn unreviewed(error: kube::Error) -> Status {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            tracing::error!(
                reason = status.message,
                "the operator may not review tokens; give it the rights of operator/rbac.yaml"
            );
            Status::failed_precondition(
                "the operator may not review tokens; its role lacks tokenreviews or subjectaccessreviews",
            )
        }
        error => {
            tracing::warn!(%error, "a token could not be reviewed");
            Status::unavailable("the API server reviews no tokens now; try again")
        }
    }
}
