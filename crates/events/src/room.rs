//! Room in memory for what is delivered: so much on the node, and of that only a part for one tenant and for one app, so that nobody's
//! slow functions keep others from theirs.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minnow_model::{AppName, Tenant};

/// What all deliveries of the node may take at one time, in bytes.
const NODE_BYTES: usize = 64 << 20;

/// What those of one tenant may take.
const TENANT_BYTES: usize = NODE_BYTES / 2;

/// What those of one app may take. 16 deliveries of the largest size.
const APP_BYTES: usize = NODE_BYTES / 4;

/// What is taken.
#[derive(Debug, Default)]
pub(crate) struct Room(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    node: usize,
    tenants: HashMap<Tenant, usize>,
    apps: HashMap<(Tenant, AppName), usize>,
}

/// A part of the room, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    owner: (Tenant, AppName),
    bytes: usize,
}

impl Room {
    /// Takes so many bytes for a delivery of the app; `None` while there is no room for them.
    pub(crate) fn take(self: &Arc<Self>, tenant: &Tenant, app: &AppName, bytes: usize) -> Option<Held> {
        let mut held = Held { room: Arc::clone(self), owner: (tenant.clone(), app.clone()), bytes: 0 };
        held.grow(bytes).then_some(held)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Has it be so many bytes, if they are no more than before or there is room for them.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            let mut taken = self.room.taken();
            let of_tenant = taken.tenants.get(&self.owner.0).copied().unwrap_or_default();
            let of_app = taken.apps.get(&self.owner).copied().unwrap_or_default();
            let fits =
                taken.node + more <= NODE_BYTES && of_tenant + more <= TENANT_BYTES && of_app + more <= APP_BYTES;
            if !fits {
                return false;
            }
            taken.node += more;
            *taken.tenants.entry(self.owner.0.clone()).or_default() += more;
            *taken.apps.entry(self.owner.clone()).or_default() += more;
            self.bytes = bytes;
        }
        true
    }

    /// Gives back what is beyond so many bytes.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let Some(less) = self.bytes.checked_sub(bytes).filter(|less| *less > 0) else { return };
        let mut taken = self.room.taken();
        taken.node -= less;
        give_back(&mut taken.tenants, &self.owner.0, less);
        give_back(&mut taken.apps, &self.owner, less);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// Whoever holds nothing has no entry: there are no more than deliveries.
fn give_back<K: Eq + Hash>(taken: &mut HashMap<K, usize>, owner: &K, less: usize) {
    if let Some(bytes) = taken.get_mut(owner) {
        *bytes -= less;
        if *bytes == 0 {
            taken.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_room_of_others_and_what_is_given_back_can_be_taken() {
        let room = Arc::new(Room::default());
        let (one, two): (Tenant, Tenant) = (Tenant::default(), "other".parse().unwrap());
        let app = |name: &str| -> AppName { name.parse().unwrap() };
        let first = room.take(&one, &app("a"), APP_BYTES).unwrap();
        assert!(room.take(&one, &app("a"), 1).is_none());
        let mut second = room.take(&one, &app("b"), APP_BYTES).unwrap();
        // The tenant has its half, in whatever app.
        assert!(room.take(&one, &app("c"), 1).is_none());
        let others = [room.take(&two, &app("d"), APP_BYTES).unwrap(), room.take(&two, &app("e"), APP_BYTES).unwrap()];
        assert_eq!(room.taken().node, NODE_BYTES);
        second.shrink(100);
        assert!(second.grow(100) && second.grow(50) && second.grow(APP_BYTES) && !second.grow(APP_BYTES + 1));
        drop((first, second, others));
        let taken = room.taken();
        assert!(taken.node == 0 && taken.tenants.is_empty() && taken.apps.is_empty());
    }
}
