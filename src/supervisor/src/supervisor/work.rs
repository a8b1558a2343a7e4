//! Carrying out what [`crate::slot`] decided. Nothing here waits: each piece of work is a task, and
//! its end is a [`Done`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use nebula_domain::spec::{Spec, VolumeSpec, Workload};
use nebula_domain::state::{Instance, Release};
use nebula_domain::{Digest, InstanceId, NodeId, State, View};
use nebula_drivers::volume::{self, Mount};
use nebula_drivers::{Secrets, StartSpec};

use super::{Done, Supervisor, once};
use crate::brought::{Brought, BroughtImage};
use crate::ports;
use crate::slot::Effect;
use crate::supplies;

/// For what is stopped although nobody says how: it was removed while this node was away.
const DEFAULT_GRACE: Duration = nebula_domain::spec::DEFAULT_STOP_GRACE;

impl Supervisor {
    pub(super) fn carry_out(&mut self, state: &State, view: &View, id: InstanceId, effect: Effect) {
        let release = state
            .instances
            .get(&id)
            .and_then(|instance| state.release_of(instance))
            .cloned();
        match effect {
            Effect::Note(text) => self.shared.driver.note(id, &text),
            Effect::Fetch => {
                if let Some(release) = release {
                    self.fetch(state, view, id, &release);
                }
            }
            Effect::Start(run) => {
                if let (Some(release), Some(instance)) = (release, state.instances.get(&id)) {
                    self.start(state, instance, run, &release);
                }
            }
            Effect::Check => {
                if let Some(release) = release {
                    self.check(id, release.artifact);
                }
            }
            Effect::Stop => {
                let grace = match release.as_ref().map(|r| &r.spec.workload) {
                    Some(Workload::Service(service)) => service.stop_grace,
                    _ => DEFAULT_GRACE,
                };
                tracing::info!(instance = %id, "stopping an instance");
                let driver = self.shared.driver.clone();
                // A start on its way may hold it up.
                self.tasks.spawn(async move {
                    let Err(error) = driver.stop(id, grace).await else {
                        return Done::Cleaned;
                    };
                    tracing::warn!(instance = %id, %error, "cannot stop an instance, trying again");
                    tokio::time::sleep(crate::slot::RETRY).await;
                    Done::NotStopped(id)
                });
            }
        }
    }

    fn fetch(&mut self, state: &State, view: &View, id: InstanceId, release: &Release) {
        let (files, digest) = (self.files.clone(), release.artifact);
        let sources = sources(state, view, self.shared.config.me);
        let fetches = self.fetches.clone();
        let only_read = release.spec.is_static();
        let service = release.spec.service();
        let image = service.and_then(|service| service.image.as_ref());
        let image = image.map(|image| image.digest);
        self.tasks.spawn(async move {
            // Never closed.
            let _turn = fetches.acquire_owned().await;
            if let Some(image) = image {
                let brought = files.image(id, (digest, image), &sources).await;
                return Done::Fetched(id, brought);
            }
            let folder = match files.ensure(digest, &sources).await {
                Ok(tree) if !only_read => files.copy(id, tree).await,
                Ok(tree) => {
                    files.compress(digest);
                    Ok(tree)
                }
                Err(error) => Err(error),
            };
            Done::Fetched(id, folder.map(Brought::folder))
        });
    }

    fn check(&mut self, id: InstanceId, digest: Digest) {
        let (files, fetches) = (self.files.clone(), self.fetches.clone());
        self.tasks.spawn(async move {
            // Never closed.
            let _turn = fetches.acquire_owned().await;
            let whole = files.is_whole(digest).await.unwrap_or_else(|error| {
                // Not to know is no reason to take a site down.
                tracing::warn!(instance = %id, %error, "a site's files cannot be checked");
                true
            });
            Done::Checked(id, whole)
        });
    }

    /// What the instance finds again: the volumes that it holds.
    fn volumes(&self, state: &State, instance: &Instance, release: &Release) -> Vec<Mount> {
        let deployment = &instance.deployment;
        let Some((ordinal, _)) = state.volumes_held(deployment, instance.id) else {
            return Vec::new();
        };
        let place = volume::place(&self.shared.config.volumes_dir, deployment, ordinal);
        let mount = |wanted: &VolumeSpec| Mount {
            name: wanted.name.clone(),
            folder: place.join(wanted.name.as_str()),
            path: PathBuf::from(&wanted.path),
        };
        release.spec.volumes().iter().map(mount).collect()
    }

    /// A port for what listens on one; an error when none is free, or the one that it has to have is not.
    fn port(&mut self, instance: &Instance, spec: &Spec) -> Result<Option<u16>, String> {
        let id = instance.id;
        if instance.run.is_some() || !spec.takes_requests() {
            return Ok(None);
        }
        let taken: BTreeSet<u16> = {
            let runs = self.runs.borrow();
            runs.iter()
                .filter(|(other, run)| **other != id && run.is_running())
                .filter_map(|(_, run)| run.port)
                .chain(self.starting.values().copied())
                .collect()
        };
        if let Some(port) = spec.service().and_then(|service| service.port) {
            let port = port.get();
            return ports::obstacle(port, &taken).map_or(Ok(Some(port)), Err);
        }
        let preferred = self.runs.borrow().get(&id).and_then(|run| run.port);
        let config = &self.shared.config;
        let port = ports::pick(&config.port_range, self.next_port, preferred, &taken)
            .ok_or_else(|| format!("no port is free in {:?}", config.port_range))?;
        self.next_port = if port < *config.port_range.end() {
            port + 1
        } else {
            *config.port_range.start()
        };
        Ok(Some(port))
    }

    fn start(&mut self, state: &State, instance: &Instance, run: u64, release: &Release) {
        let (id, deployment) = (instance.id, &instance.deployment);
        let volumes = self.volumes(state, instance, release);
        let Workload::Service(service) = &release.spec.workload else {
            return;
        };
        let Some(Brought { folder, image }) = self.folders.get(&id).cloned() else {
            return;
        };
        let port = self.port(instance, &release.spec);
        let command = once::command(state, instance, &release.spec)
            .ok_or_else(|| "the run that it belongs to is not known".to_owned());
        let command = command.and_then(|command| runnable(command, image.as_ref()));
        let (port, command) = match port.and_then(|port| Ok((port, command?))) {
            Ok(both) => both,
            Err(reason) => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.not_started(reason, super::now());
                }
                return;
            }
        };
        // Said once.
        let remarks = image.as_ref().filter(|_| run == 1);
        let remarks = remarks.map_or_else(Vec::new, |image| image.remarks(service));
        let needs = service.depends_on.clone();
        let mut spec = StartSpec {
            instance: id,
            run,
            deployment: deployment.clone(),
            release: release.number,
            node: self.shared.config.node_name.clone(),
            command,
            env: once::env(state, instance, service),
            workdir: folder,
            image: image.map(|brought| brought.image),
            port,
            reach: Vec::new(),
            stop_grace: service.stop_grace,
            resources: service.resources,
            isolation: service.isolation,
            volumes,
            secrets: Secrets::default(),
        };
        let has_secrets = !service.secrets.is_empty();
        tracing::info!(instance = %id, %deployment, release = %release.number, run, ?port, "starting an instance");
        let (driver, starts) = (self.shared.driver.clone(), self.starts.clone());
        let supplies = self.shared.supplies.clone();
        if let Some(port) = port {
            self.starting.insert(id, port);
        }
        self.tasks.spawn(async move {
            if has_secrets {
                // Before its turn: a voter that is silent must not hold up what has no secrets.
                match supplies::secrets(supplies.as_ref(), id).await {
                    Ok(values) => spec.secrets = Secrets(values),
                    Err(why) => return Done::Started(id, Err(why)),
                }
            }
            // Never closed.
            let _turn = starts.acquire_owned().await;
            for to in &needs {
                let port = match supplies.port(to).await {
                    Ok(port) => port,
                    Err(why) => return Done::Started(id, Err(why)),
                };
                spec.reach.push(port);
                for (name, value) in supplies::address(to, port) {
                    // What a person has set means something.
                    spec.env.entry(name).or_insert(value);
                }
            }
            let result = driver.start(spec).await;
            for remark in remarks.iter().filter(|_| result.is_ok()) {
                driver.note(id, remark);
            }
            Done::Started(
                id,
                result.map_err(|error| format!("cannot start the program: {error}")),
            )
        });
    }
}

/// An image says by itself what is to be run, or has to be told.
fn runnable(command: String, image: Option<&BroughtImage>) -> Result<String, String> {
    let says = image.is_some_and(|brought| !brought.image.entry.is_empty());
    if command.is_empty() && !says {
        return Err("the image names no program to run: give the deployment a command".to_owned());
    }
    Ok(command)
}

/// Every other node, those believed to be alive first: one that is not costs a deadline.
fn sources(state: &State, view: &View, me: NodeId) -> Vec<NodeId> {
    let mut sources: Vec<NodeId> = state.nodes.keys().copied().filter(|n| *n != me).collect();
    sources.sort_by_key(|node| !view.is_alive(*node));
    sources
}
