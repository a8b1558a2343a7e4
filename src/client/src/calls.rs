//! The calls about the cluster: members, joining, settings, and what a node says of itself.

use http::Method;
use nebula_wire::api::{
    CreateJoinToken, CreatedJoinToken, DrainStatus, JoinRequest, JoinResponse, JoinTokens,
    LabelChange, Members, NodeLabels, NodeStatus, PlacementAnswer, PlacementQuestion, SecretInfo,
    SecretValue, Secrets, Setting, SettingValue, Settings, Volumes,
};
use serde::Serialize;

use crate::path::segment;
use crate::send::{Call, RequestIds};
use crate::{Client, ClientError};

#[derive(Serialize)]
struct Drain {
    draining: bool,
}

impl Client {
    /// A read's path with the consistency asked for.
    pub(crate) fn read_path(&self, path: &str) -> Call {
        Call::read(format!("{path}?consistency={}", self.consistency.as_str()))
    }

    /// Whether a node answers at all. Needs no token.
    pub async fn health(&self) -> Result<(), ClientError> {
        let call = Call {
            authenticated: false,
            ..Call::read("/v1/health")
        };
        self.done(call).await
    }

    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.json(Call::read("/v1/openapi.json")).await
    }

    /// The asked node's metrics, Prometheus text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (bytes, address) = self.bytes(Call::read("/metrics")).await?;
        String::from_utf8(bytes.into()).map_err(|_| ClientError::BadAnswer {
            address,
            reason: "its metrics are not UTF-8".into(),
        })
    }

    pub async fn members(&self) -> Result<Members, ClientError> {
        self.json(self.read_path("/v1/members")).await
    }

    /// What the asked node says of itself.
    pub async fn status(&self) -> Result<NodeStatus, ClientError> {
        self.json(self.read_path("/v1/status")).await
    }

    /// Removes a member by id or name, for good.
    pub async fn remove_member(&self, node: &str) -> Result<(), ClientError> {
        let path = format!("/v1/members/{}", segment(node));
        self.done(Call::change(Method::DELETE, path)).await
    }

    /// Says whether a member's instances should move elsewhere.
    pub async fn set_draining(&self, node: &str, draining: bool) -> Result<(), ClientError> {
        let path = format!("/v1/members/{}/drain", segment(node));
        let call = Call::change(Method::POST, path).json(&Drain { draining })?;
        self.done(call).await
    }

    /// The instances that a member has still, and what keeps them there.
    pub async fn drain_status(&self, node: &str) -> Result<DrainStatus, ClientError> {
        let path = format!("/v1/members/{}/drain", segment(node));
        self.json(self.read_path(&path)).await
    }

    /// Whether instances of a program would have places. Changes nothing.
    pub async fn placement(
        &self,
        question: &PlacementQuestion,
    ) -> Result<PlacementAnswer, ClientError> {
        self.json(Call::change(Method::POST, "/v1/placement").json(question)?)
            .await
    }

    /// Sets and removes labels of a member.
    pub async fn label_member(
        &self,
        node: &str,
        change: &LabelChange,
    ) -> Result<NodeLabels, ClientError> {
        let path = format!("/v1/members/{}/labels", segment(node));
        self.json(Call::change(Method::POST, path).json(change)?)
            .await
    }

    /// Joins a cluster. The request's own id makes repeated tries one; the join token is the only credential.
    pub async fn join(&self, request: &JoinRequest) -> Result<JoinResponse, ClientError> {
        let call = Call {
            authenticated: false,
            request_id: RequestIds::Same(request.request_id.clone()),
            ..Call::change(Method::POST, "/v1/join").json(request)?
        };
        self.json(call).await
    }

    pub async fn join_tokens(&self) -> Result<JoinTokens, ClientError> {
        self.json(self.read_path("/v1/tokens")).await
    }

    /// Makes a join token. A try whose answer was lost leaves a token that nobody knows and that expires.
    pub async fn create_join_token(
        &self,
        request: &CreateJoinToken,
    ) -> Result<CreatedJoinToken, ClientError> {
        let call = Call {
            request_id: RequestIds::Fresh,
            ..Call::change(Method::POST, "/v1/tokens").json(request)?
        };
        self.json(call).await
    }

    pub async fn revoke_join_token(&self, id: &str) -> Result<(), ClientError> {
        let path = format!("/v1/tokens/{}", segment(id));
        self.done(Call::change(Method::DELETE, path)).await
    }

    /// What deployments keep, and where. Their nodes measure it first.
    pub async fn volumes(&self) -> Result<Volumes, ClientError> {
        self.json(self.read_path("/v1/volumes")).await
    }

    /// Has the volumes of a deployment deleted that is removed, or being removed.
    pub async fn delete_volumes(&self, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/volumes/{}", segment(name));
        self.done(Call::change(Method::DELETE, path)).await
    }

    pub async fn secrets(&self) -> Result<Secrets, ClientError> {
        self.json(self.read_path("/v1/secrets")).await
    }

    pub async fn set_secret(
        &self,
        name: &str,
        value: &SecretValue,
    ) -> Result<SecretInfo, ClientError> {
        let path = format!("/v1/secrets/{}", segment(name));
        self.json(Call::change(Method::PUT, path).json(value)?)
            .await
    }

    pub async fn delete_secret(&self, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/secrets/{}", segment(name));
        self.done(Call::change(Method::DELETE, path)).await
    }

    pub async fn settings(&self) -> Result<Settings, ClientError> {
        self.json(self.read_path("/v1/config")).await
    }

    pub async fn setting(&self, key: &str) -> Result<Setting, ClientError> {
        self.json(self.read_path(&format!("/v1/config/{}", segment(key))))
            .await
    }

    pub async fn set_setting(&self, key: &str, value: &str) -> Result<Setting, ClientError> {
        let path = format!("/v1/config/{}", segment(key));
        let value = SettingValue {
            value: value.to_owned(),
        };
        self.json(Call::change(Method::PUT, path).json(&value)?)
            .await
    }

    pub async fn unset_setting(&self, key: &str) -> Result<(), ClientError> {
        let path = format!("/v1/config/{}", segment(key));
        self.done(Call::change(Method::DELETE, path)).await
    }
}
