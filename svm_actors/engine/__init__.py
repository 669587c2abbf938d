"""The engine: cooperative tasks, their ops, the kernel's locks, channels and actors, virtual time.

Bottom layer: it knows nothing of memory, GPUs or search.  From the inside out:

* :mod:`~svm_actors.engine.op` and :mod:`~svm_actors.engine.task`: what is scheduled;
* :mod:`~svm_actors.engine.engine`: the pick, the clock, the choice tape; :mod:`~svm_actors.engine.chooser`
  is the interface of strategies, :mod:`~svm_actors.engine.backend` moves control;
* :mod:`~svm_actors.engine.source`: guards; on it stand :mod:`~svm_actors.engine.locks`,
  :mod:`~svm_actors.engine.channel` and :mod:`~svm_actors.engine.nursery`, and on those
  :mod:`~svm_actors.engine.actor`;
* :mod:`~svm_actors.engine.lockdep` and :mod:`~svm_actors.engine.report`: what is said when it goes wrong.
"""
