//! The calls about deployments.

use http::Method;
use nebula_wire::api::{
    CachePurged, CreateDeployment, Deployed, DeploymentHealth, DeploymentStatus, Deployments,
    Order, Releases, RollBack, RunBegun, Runs, Scale, UpdateDeployment,
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

    /// The same with what its nodes say of each instance.
    pub async fn deployment_detail(&self, name: &str) -> Result<DeploymentStatus, ClientError> {
        let call = self.read_path(&path(name));
        let path = format!("{}&detail=true", call.path);
        self.json(Call { path, ..call }).await
    }

    /// How its instances answer their probes; with `history` also what changed lately.
    pub async fn deployment_health(
        &self,
        name: &str,
        history: bool,
    ) -> Result<DeploymentHealth, ClientError> {
        let path = format!("{}/health?history={history}", path(name));
        self.json(Call::read(path)).await
    }

    pub async fn create_deployment(
        &self,
        request: &CreateDeployment,
    ) -> Result<Deployed, ClientError> {
        self.json(Call::change(Method::POST, "/v1/deployments").json(request)?)
            .await
    }

    /// What would come of [`Client::create_deployment`], whose artifact need not be there. Changes nothing.
    ///
    /// # Errors
    /// It would be refused. Unknown action: the node is of a version that has no rehearsals.
    pub async fn rehearse_create(
        &self,
        request: &CreateDeployment,
    ) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, "/v1/rehearsals/deployments");
        self.json(call.json(request)?).await
    }

    /// The same of [`Client::update_deployment`].
    ///
    /// # Errors
    /// It would be refused.
    pub async fn rehearse_update(
        &self,
        name: &str,
        request: &UpdateDeployment,
    ) -> Result<Deployed, ClientError> {
        let path = format!("/v1/rehearsals/deployments/{}", segment(name));
        self.json(Call::change(Method::PUT, path).json(request)?)
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
        scale: &Scale,
    ) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/scale", path(name)));
        self.json(call.json(scale)?).await
    }

    /// Replaces every instance by a new one of the same release.
    pub async fn restart_deployment(&self, name: &str) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/restart", path(name)));
        self.json(call).await
    }

    /// The kept releases with their specs, newest first.
    pub async fn releases(&self, name: &str) -> Result<Releases, ClientError> {
        let path = format!("{}/releases", path(name));
        self.json(self.read_path(&path)).await
    }

    /// Makes an older release the wanted one: this one, or the one before.
    pub async fn roll_back(
        &self,
        name: &str,
        release: Option<u32>,
    ) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/rollback", path(name)));
        self.json(call.json(&RollBack { release })?).await
    }

    /// `pause`, `resume`, `promote` or `abort` of the release on its way.
    pub async fn order_rollout(&self, name: &str, order: &str) -> Result<Deployed, ClientError> {
        let call = Call::change(Method::POST, format!("{}/rollout", path(name)));
        let order = order.to_owned();
        self.json(call.json(&Order { order })?).await
    }

    /// Lets go of what all nodes' proxies keep of its answers; waits a few seconds for them to know.
    pub async fn purge_cache(&self, name: &str) -> Result<CachePurged, ClientError> {
        let call = Call::change(Method::POST, format!("{}/cache/purge", path(name)));
        self.json(call).await
    }

    /// The runs that go on and the latest that are over, newest first.
    pub async fn runs(&self, name: &str) -> Result<Runs, ClientError> {
        let path = format!("{}/runs", path(name));
        self.json(self.read_path(&path)).await
    }

    /// Begins a run of a job or a cron deployment now.
    pub async fn start_run(&self, name: &str) -> Result<RunBegun, ClientError> {
        let call = Call::change(Method::POST, format!("{}/runs", path(name)));
        self.json(call).await
    }

    /// Ends a run, such as `run-3`.
    pub async fn cancel_run(&self, name: &str, run: &str) -> Result<(), ClientError> {
        let path = format!("{}/runs/{}", path(name), segment(run));
        self.done(Call::change(Method::DELETE, path)).await
    }

    /// Begins the removal; it is over when the deployment is no longer found.
    pub async fn remove_deployment(&self, name: &str) -> Result<(), ClientError> {
        self.done(Call::change(Method::DELETE, path(name))).await
    }
}
