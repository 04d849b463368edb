"""Teachers: frozen models that a student learns from, online or as embeddings beside the data."""

from mmjax.teachers.teacher import Teacher, open_teachers

__all__ = ["Teacher", "open_teachers"]
