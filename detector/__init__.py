"""The online half: from columns to a detector."""
