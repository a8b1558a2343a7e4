//! The calls about deployments.

use http::Method;
use nebula_wire::api::{
    CreateDeployment, Deployed, DeploymentStatus, Deployments, Scale, UpdateDeployment,
};

use crate::path::segment;
use crate::send::Call;
use crate::{Client, ClientError};

fn path(name: &str) -> String {
    format!("/v1/deployments/{}", segment(name))
}

impl Client {
    pub async fn deployments(&self) -> Result<Deployments, ClientError> {
        self.json(self.read_path("/v1/deployments")).await
    }

    pub async fn deployment(&self, name: &str) -> Result<DeploymentStatus, ClientError> {
        self.json(self.read_path(&path(name))).await
    }

    pub async fn create_deployment(
        &self,
        request: &CreateDeployment,
    ) -> Result<Deployed, ClientError> {
        self.json(Call::change(Method::POST, "/v1/deployments").json(request)?)
            .await
    }

    /// A new release of a deployment.
    pub async fn update_deployment(
        &self,
        name: &str,
        request: &UpdateDeployment,
    ) -> Result<Deployed, ClientError> {
        self.json(Call::change(Method::PUT, path(name)).json(request)?)
            .await
    }

    pub async fn scale_deployment(
        &self,
        name: &str,
        instances: u32,
    ) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/scale", path(name)));
        self.json(call.json(&Scale { instances })?).await
    }

    /// Replaces every instance by a new one of the same release.
    pub async fn restart_deployment(&self, name: &str) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/restart", path(name)));
        self.json(call).await
    }

    /// Begins the removal; it is over when the deployment is no longer found.
    pub async fn remove_deployment(&self, name: &str) -> Result<(), ClientError> {
        self.done(Call::change(Method::DELETE, path(name))).await
    }
}
