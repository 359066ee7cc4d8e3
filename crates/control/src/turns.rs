//! One slow change of an app at a time. What takes long (migrations, waiting for calls that use an app's data) holds up that app
//! alone; the lock for changes is only taken for what takes milliseconds.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use minnow_model::{AppName, Tenant};
use tokio::sync::OwnedMutexGuard;

/// Whose turn it is, for each app that is being changed. Taken before the lock for changes, never while that is held.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<(Tenant, AppName), Weak<Turn>>>);

type Turn = tokio::sync::Mutex<()>;

impl Turns {
    /// Waits until nobody else changes the app. What is returned is the turn: it ends with it.
    pub(crate) async fn of(&self, tenant: &Tenant, app: &AppName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.entry((tenant.clone(), app.clone())).or_default();
            turn.upgrade().unwrap_or_else(|| {
                let new = Arc::default();
                *turn = Arc::downgrade(&new);
                new
            })
        };
        turn.lock_owned().await
    }
}
