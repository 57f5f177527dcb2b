{{/* Where the embedded ledger is backed up, and what an empty volume means. */}}
{{- define "depin.hasBackup" -}}
{{- $backup := .Values.gateway.backup -}}
{{- $somewhere := or $backup.existingClaim $backup.s3.url -}}
{{- if and $somewhere .Values.ledger.postgresql.enabled -}}
{{- fail "gateway.backup is for the embedded ledger: a database is backed up by its own tools (pg_dump, or base backups with archived WAL), see ledger.postgresql.backups" -}}
{{- end -}}
{{- if and $backup.existingClaim $backup.s3.url -}}
{{- fail "gateway.backup: give existingClaim or s3.url, not both" -}}
{{- end -}}
{{- if and (or $backup.recipients .Values.gateway.restore.enabled) (not $somewhere) -}}
{{- fail "gateway.backup: recipients and gateway.restore need a place, existingClaim or s3.url" -}}
{{- end -}}
{{- if $somewhere }}yes{{ end -}}
{{- end -}}

{{- define "depin.backupArgs" -}}
{{- $backup := .Values.gateway.backup -}}
{{- $restore := .Values.gateway.restore -}}
{{- if include "depin.hasBackup" . -}}
- --backup-every={{ $backup.every }}
- --backup-keep={{ $backup.keep }}
{{- if $backup.existingClaim }}
- --backup-dir=/var/lib/depin-backup
{{- else }}
- --backup-s3={{ $backup.s3.url }}
- --backup-s3-region={{ $backup.s3.region }}
- --backup-s3-addressing={{ $backup.s3.addressing }}
- --backup-s3-credentials-dir=/etc/depin/backup-credentials
{{- if $backup.s3.caConfigMap }}
- --backup-s3-ca=/etc/depin/backup-ca/ca.crt
{{- else if hasPrefix "https://" $backup.s3.url }}
{{- fail "gateway.backup.s3.caConfigMap: name a ConfigMap with ca.crt, who certifies the store; the images hold no certificates (for a public store a copy of any system's bundle)" }}
{{- end }}
{{- end }}
{{- range $backup.recipients }}
- --backup-recipient={{ . }}
{{- end }}
{{- if $restore.enabled }}
- --restore-if-empty
{{- if $restore.identitySecret }}
- --restore-identity=/etc/depin/backup-identity/identity
{{- end }}
{{- with $restore.at }}
- --restore-at={{ . }}
{{- end }}
{{- end }}
{{- end -}}
{{- end -}}

{{- define "depin.backupMounts" -}}
{{- $backup := .Values.gateway.backup -}}
{{- $restore := .Values.gateway.restore -}}
{{- if $backup.existingClaim }}
- {name: backup, mountPath: /var/lib/depin-backup}
{{- end }}
{{- if $backup.s3.url }}
- {name: backup-credentials, mountPath: /etc/depin/backup-credentials, readOnly: true}
{{- if $backup.s3.caConfigMap }}
- {name: backup-ca, mountPath: /etc/depin/backup-ca, readOnly: true}
{{- end }}
{{- end }}
{{- if and $restore.enabled $restore.identitySecret }}
- {name: backup-identity, mountPath: /etc/depin/backup-identity, readOnly: true}
{{- end }}
{{- end -}}

{{- define "depin.backupVolumes" -}}
{{- $backup := .Values.gateway.backup -}}
{{- $restore := .Values.gateway.restore -}}
{{- if $backup.existingClaim }}
- name: backup
  persistentVolumeClaim: {claimName: {{ $backup.existingClaim }}}
{{- end }}
{{- if $backup.s3.url }}
- name: backup-credentials
  secret:
    secretName: {{ required "gateway.backup.s3.credentialsSecret: name the Secret with access-key-id and secret-access-key" $backup.s3.credentialsSecret }}
    defaultMode: 0440
{{- with $backup.s3.caConfigMap }}
- name: backup-ca
  configMap: {name: {{ . }}}
{{- end }}
{{- end }}
{{- if and $restore.enabled $restore.identitySecret }}
- name: backup-identity
  secret:
    secretName: {{ $restore.identitySecret }}
    defaultMode: 0440
    items: [{key: identity, path: identity}]
{{- end }}
{{- end -}}
