//! On a registry of two values: what this node knows, and what is true.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Mutex;

use nebula_domain::ids::InstanceId;
use nebula_domain::volume::VolumeSet;

use super::*;

const ME: NodeId = NodeId(1);

struct Paper {
    known: watch::Sender<Arc<State>>,
    latest: Option<Arc<State>>,
    told: Mutex<Vec<Command>>,
}

#[async_trait]
impl Records for Paper {
    fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.known.subscribe()
    }

    async fn latest(&self) -> Result<Arc<State>, ReadError> {
        self.latest.clone().ok_or(ReadError::NoQuorum)
    }

    async fn tell(&self, command: Command) -> Result<(), ProposeError> {
        self.told.lock().unwrap().push(command);
        Ok(())
    }
}

fn db() -> DeploymentName {
    "db".parse().unwrap()
}

fn state(deleting: bool, holder: Option<InstanceId>) -> Arc<State> {
    let set = VolumeSet {
        node: ME,
        names: BTreeSet::from(["data".parse().unwrap()]),
        holder,
        deleting,
    };
    let mut state = State::default();
    state.volumes.insert(db(), [(0, set)].into());
    Arc::new(state)
}

/// One pass over a folder with a file. What is left of it, and what the registry was told.
async fn pass(known: Arc<State>, latest: Option<Arc<State>>) -> (bool, usize) {
    let dir = tempfile::tempdir().unwrap();
    let file = volume::place(dir.path(), &db(), 0).join("data/data/file");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "precious").unwrap();
    let paper = Arc::new(Paper {
        known: watch::Sender::new(known),
        latest,
        told: Mutex::default(),
    });
    let mut keeper = Keeper::new(ME, dir.path().to_owned(), paper.clone());
    keeper.wake().await;
    keeper.pass().await.unwrap();
    let told = paper.told.lock().unwrap().len();
    (file.exists(), told)
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_deleted_is_deleted_and_told() {
    let due = state(true, None);
    assert_eq!(pass(due.clone(), Some(due)).await, (false, 1));
}

#[tokio::test(start_paused = true)]
async fn what_this_node_knew_is_not_enough() {
    let due = || state(true, None);
    let (kept, given_away) = (state(false, None), state(false, Some(InstanceId(7))));
    for latest in [None, Some(kept.clone()), Some(Arc::default())] {
        assert_eq!(pass(due(), latest).await, (true, 0));
    }
    // Nor is what was read, once this node has been told of an instance that has them.
    let dir = tempfile::tempdir().unwrap();
    let file = volume::place(dir.path(), &db(), 0).join("data/data/file");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "precious").unwrap();
    let paper = Arc::new(Paper {
        known: watch::Sender::new(given_away),
        latest: Some(due()),
        told: Mutex::default(),
    });
    let keeper = Keeper::new(ME, dir.path().to_owned(), paper);
    keeper.delete(db(), 0).await;
    assert!(file.exists());
}

#[tokio::test(start_paused = true)]
async fn what_was_left_half_deleted_is_finished_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let half = dir.path().join(".deleting/db.0.0/data/data");
    fs::create_dir_all(&half).unwrap();
    let paper = Arc::new(Paper {
        known: watch::Sender::new(state(false, None)),
        latest: None,
        told: Mutex::default(),
    });
    let mut keeper = Keeper::new(ME, dir.path().to_owned(), paper);
    keeper.wake().await;
    keeper.pass().await.unwrap();
    assert!(!half.exists());
}
